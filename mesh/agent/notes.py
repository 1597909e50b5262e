"""What the agent does about each thing that it warns of: the end of the line in the log, as ``then``.

A note says what happened (its name), to whom (``peer``, ``topic``, ``app``, …), why, and what was done. The last is the
same each time, so that it stands here once, and not where the note is written.
"""

from collections.abc import Mapping

__all__ = ["THEN"]

THEN: Mapping[str, str] = {
    "agent_health": "the matchmaker is told, and /readyz",
    "app_malformed": "its connection was closed",
    "app_refused": "it was turned away",
    "app_session_ended": "what it ran is answered as lost, or sent again if that may be",
    "apps_full": "the newcomer was turned away",
    "cast_failed": "settled: what raised is not sent again",
    "certificate_expires": "links go on until then: mesh keys rotate, sign, mesh reload",
    "dial_failed": "dialled again while something needs the link",
    "directory_corrupt": "set aside, and begun anew",
    "duplicate_node": "the later one of the two stops",
    "foreign_record": "the record was passed over",
    "http_failed": "the reader was told of an error",
    "inbound_evicted": "its connection was closed",
    "incarnation_corrupt": "set aside; the clock gives the next number, or peers that know a greater one",
    "incarnation_refused": "this reactor goes on as it is",
    "lagged": "peers and apps are given as much more time",
    "link_lost": "what was sent there is asked about, or sent elsewhere if that may be",
    "link_malformed": "the link was closed",
    "link_refused": "no link came of it; dialled again while something needs one",
    "matchmaker_away": "traffic to known peers goes on; the matchmaker is tried again",
    "namesake_silent": "this agent is entered in its place",
    "own_key_revoked": "it goes on for apps of this machine: mesh keys rotate, sign, mesh reload",
    "poisoned": "given up: whoever waits is told",
    "policy_refused": "answered as Rejected",
    "reactor_failed": "it ends, and another one starts",
    "reactor_hung": "it was killed, and another one starts",
    "reactor_not_started": "tried again",
    "reactor_stops": "it ends with this status",
    "recorder_paused": "nothing is recorded until there is room",
    "recording_failed": "nothing was written",
    "reload_refused": "what was in force stays so",
    "revocations_away": "what is known stays in force; it is tried again",
    "revocations_learned": "in force, and not written down: the next start reads it anew",
    "revocations_refused": "what is known stays in force",
    "service_health": "the matchmaker is told; what is critical gets nothing new",
    "service_revoked": "it was withdrawn, and its app told",
    "spool_away": "durable casts are refused; it is tried again",
    "spool_refuses": "new durable casts are refused; what has ended is written again",
    "spool_set_aside": "a new one was begun",
    "supervisor_refused": "it ends with this status",
    "systemd_unreachable": "the agent goes on, and systemd is not told",
    "topic_doubted": "the matchmaker is asked again before it is believed",
    "topology_away": "tried again; nothing else waits for it",
    "topology_unread": "their edges are left out",
    "view_malformed": "it is left out of the view",
}
