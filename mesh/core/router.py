"""Which instance gets a message: policies as pure functions of a topic's ready instances.

``round_robin`` is strict: for each calling agent and topic, n consecutive messages reach n instances, whatever node
they are on. Instances are walked in the order of their keys; the cursor is the key that was served last, so that
instances may come and go between two messages without anybody being skipped or served twice.

``local_first`` takes turns among the instances of this node, and goes elsewhere only when there is none.
``least_outstanding`` takes the instance with the fewest unfinished messages of this agent, in turns among equals.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from mesh.core.catalogue import Instance
from mesh.core.directory import Group
from mesh.types import InstanceKey

__all__ = ["Avoid", "Outstanding", "Policy", "RouterOptions", "choose", "in_turn"]

Policy = Literal["round_robin", "local_first", "least_outstanding"]
Avoid = Callable[[Instance], bool]
Outstanding = Callable[[Instance], int]


class RouterOptions(Struct, frozen=True):
    """How messages are spread over the instances of a topic."""

    policy: Annotated[
        Policy,
        Meta(
            description="round_robin (strict, over the fleet), local_first (this node's instances while there are "
            "any: no network, but uneven load) or least_outstanding (even with unequal handlers)."
        ),
    ] = "round_robin"
    topics: Annotated[
        dict[str, Policy], Meta(description='Topics with another policy: { thumbnails = "least_outstanding" }.')
    ] = field(default_factory=dict)

    def policy_of(self, topic: str) -> Policy:
        return self.topics.get(topic, self.policy)


def choose(
    policy: Policy, group: Group, cursor: InstanceKey | None, *, node: str, avoid: Avoid, outstanding: Outstanding
) -> Instance | None:
    """Return the instance that gets the next message, or None if the group is empty.

    ``cursor``: the key served last; ``node``: where this is; ``avoid``: true for instances to pass over while there
    is another choice; ``outstanding``: unfinished messages of an instance.
    """
    if len(group.instances) <= 1:
        return group.instances[0] if group.instances else None
    if policy == "round_robin":
        return in_turn(group, cursor, avoid)
    willing = [i for i in group.instances if not avoid(i)] or group.instances
    if policy == "local_first":
        willing = [i for i in willing if i.agent.node == node] or willing
    else:
        least = min(outstanding(i) for i in willing)
        willing = [i for i in willing if outstanding(i) == least]
    return in_turn(Group(willing, [i.key for i in willing]), cursor, avoid)


def in_turn(group: Group, cursor: InstanceKey | None, avoid: Avoid) -> Instance:
    """Return the first instance after the cursor that need not be avoided, in key order and around the end."""
    start = 0 if cursor is None else bisect_right(group.keys, cursor)
    count = len(group.instances)
    for step in range(count):
        instance = group.instances[(start + step) % count]
        if not avoid(instance):
            return instance
    return group.instances[start % count]
