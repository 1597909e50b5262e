"""A file, the environment and the machine become one configuration, or everything that is wrong."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import Config, Row, explain, load
from mesh.config.options import PRESETS, SECTIONS, options_of
from mesh.config.parse import FILE_BYTES_MAX, PROBLEMS_MAX
from mesh.config.places import this_machine
from mesh.core.policy import Rule
from mesh.errors import ConfigError
from mesh.matchmaker.consul import ConsulMatchmaker
from mesh.matchmaker.sqlite import SqliteMatchmaker
from mesh.security.tokens import Bearer, digest_of
from mesh.types import Endpoint
from tests.config.machines import HOST, configure

TEN_MISTAKES = """
preset = "land"
fleeet = "staging"

[agent]
fleet = "a/b"
node_id = "two words"
bind = ["eth9"]
log_level = "loud"

[heartbeat]
heartbeat_s = 0.001
dead_after_s = "soon"

[heats]
pin = 1

[heat]
hot_at = 7
links_max = 10
hot_at_per_s = 1
cold_at_per_s = 2

[heat.pin]
billing = "warm"

[links]
chunk_bytes = 4096.0
redial_min_s = 9

[matchmaker.sqlite]
path = "shared.sqlite"
"""


def problems(directory: Path, text: str, environ: dict[str, str] | None = None, **machine: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configure(directory, text, environ, **machine)
    return list(caught.value.problems)


def problem(directory: Path, text: str, environ: dict[str, str] | None = None, **machine: object) -> str:
    (only,) = problems(directory, text, environ, **machine)
    return only


def origins(config: Config) -> dict[tuple[str, str], str]:
    return {(row.section, row.key): row.origin for row in explain(config)}


def test_every_mistake_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    expected = [
        "preset = 'land': must be one of local, lan, wan; did you mean lan?",
        "fleeet: unknown option",
        "[heats]: unknown section; did you mean [heat]?",
        "[agent] log_level = 'loud': must be one of debug, error, info, warning",
        "[heartbeat] heartbeat_s = 0.001: must be from 0.05 to 60 s",
        "[heartbeat] dead_after_s = 'soon': must be a number, not a string",
        "[links] chunk_bytes = 4096.0: must be an integer, not a float",
        "[heat] hot_at: unknown option; did you mean hot_at_per_s?",
        "[heat] links_max: unknown option; it belongs in [links]",
        "[heat] pin.billing = 'warm': must be one of cold, hot",
        "[matchmaker.sqlite] path = 'shared.sqlite': must be an absolute path",
        "[agent] bind: 'eth9' is neither an address nor an interface of this machine: did you mean eth1?",
        "[heat] cold_at_per_s = 2, [heat] hot_at_per_s = 1: cold_at_per_s must be below hot_at_per_s, or links flap",
        "[links] redial_min_s = 9, [links] redial_max_s = 5: redial_min_s must be at most redial_max_s",
        "[agent] fleet: fleet 'a/b' must not hold a slash, nor be . or .., for directories are named by it",
        "[agent] node_id: node id 'two words' must be printable and hold neither white space nor a slash",
    ]
    assert expected == problems(tmp_path, TEN_MISTAKES)


def test_the_error_names_the_file_and_counts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, TEN_MISTAKES)
    assert str(tmp_path / "mesh.toml") == caught.value.source
    assert f"{tmp_path / 'mesh.toml'}: 16 problems\n  - preset" in str(caught.value)


def test_a_file_of_nothing_but_mistakes_is_reported_within_a_limit(tmp_path: Path) -> None:
    found = problems(tmp_path, "[agent]\n" + "".join(f"x{number} = 1\n" for number in range(20_000)))
    assert PROBLEMS_MAX + 1 == len(found)
    assert "and more: mend these first" == found[-1]


def test_without_a_file_it_is_the_local_preset(tmp_path: Path) -> None:
    config = configure(tmp_path)
    assert ("local", "sqlite", ("127.0.0.1",), 0) == (
        config.preset,
        config.matchmaker_kind,
        config.bind,
        config.link_port,
    )
    assert (0.2, 1.0) == (config.node_options.liveness.heartbeat_s, config.node_options.liveness.dead_after_s)
    assert (2.0, 3.0) == (config.node_options.heat.half_life_s, config.node_options.heat.dwell_s)
    assert 5.0 == config.node_options.pool.idle_close_s
    assert "web-7" == config.node_id


def test_without_a_file_things_are_kept_in_the_users_own_places(tmp_path: Path) -> None:
    config = configure(tmp_path)
    assert Path("/home/ada/.local/state/mesh/default") == config.data_dir
    assert "/home/ada/.local/state/mesh/default/matchmaker.sqlite" == config.sqlite.path
    assert tmp_path / "mesh" / "agent.sock" == config.socket_path


def test_the_lan_preset_listens_to_the_network_and_uses_consul(tmp_path: Path) -> None:
    config = configure(tmp_path, 'preset = "lan"')
    assert ("consul", ("0.0.0.0",), 7441) == (config.matchmaker_kind, config.bind, config.link_port)
    assert (1.0, 5.0) == (config.node_options.liveness.heartbeat_s, config.node_options.liveness.dead_after_s)
    assert "192.0.2.7" == config.agent.advertise


def test_the_wan_preset_is_slower_to_judge(tmp_path: Path) -> None:
    config = configure(tmp_path, 'preset = "wan"')
    assert (5.0, 20.0) == (config.node_options.liveness.heartbeat_s, config.node_options.liveness.dead_after_s)
    assert 40.0 == config.watchdog_s


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_stands_by_itself(tmp_path: Path, preset: str) -> None:
    assert preset == configure(tmp_path, f'preset = "{preset}"').preset


def test_a_presets_values_are_options_within_their_bounds(tmp_path: Path) -> None:
    for preset, values in PRESETS.items():
        lines = [f"{section}.{name} = {json.dumps(v)}" for (section, name), v in values.items()]
        assert configure(tmp_path, "\n".join([f'preset = "{preset}"', *lines])).preset == preset


def test_the_files_values_go_above_the_presets(tmp_path: Path) -> None:
    config = configure(tmp_path, 'preset = "wan"\n[heartbeat]\nheartbeat_s = 4')
    assert (4.0, 20.0) == (config.node_options.liveness.heartbeat_s, config.node_options.liveness.dead_after_s)


def test_the_environment_goes_above_the_file(tmp_path: Path) -> None:
    text = '[agent]\nnode_id = "filed"\nsocket = "/run/filed.sock"'
    config = configure(tmp_path, text, {"MESH_NODE_ID": "told", "MESH_SOCKET": "/run/told.sock"})
    assert ("told", Path("/run/told.sock")) == (config.node_id, config.socket_path)


def test_empty_variables_are_none(tmp_path: Path) -> None:
    empty = dict.fromkeys(["MESH_CONFIG", "MESH_NODE_ID", "MESH_SOCKET", "XDG_STATE_HOME"], "")
    assert configure(tmp_path) == configure(tmp_path, environ=empty)


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "named.toml"
    path.write_text('[agent]\nfleet = "staging"')
    assert "staging" == configure(tmp_path, environ={"MESH_CONFIG": str(path)}).fleet


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    told = problems(tmp_path, "", {"MESH_NODE_ID": "a b", "MESH_SOCKET": "agent.sock"})
    assert [
        "[agent] socket = 'agent.sock': must be an absolute path (from MESH_SOCKET)",
        "[agent] node_id: node id 'a b' must be printable and hold neither white space nor a slash (from MESH_NODE_ID)",
    ] == told


def test_every_value_says_where_it_came_from(tmp_path: Path) -> None:
    text = 'preset = "wan"\n[heartbeat]\nheartbeat_s = 4\n[agent]\nbind = ["eth1"]'
    found = origins(configure(tmp_path, text, {"MESH_NODE_ID": "told"}))
    file = f"file: {tmp_path / 'mesh.toml'}"
    assert file == found["", "preset"]
    assert file == found["heartbeat", "heartbeat_s"]
    assert "preset wan" == found["heartbeat", "dead_after_s"]
    assert "default" == found["links", "links_max"]
    assert "environment MESH_NODE_ID" == found["agent", "node_id"]
    assert f"{file} (of eth1)" == found["agent", "bind"]
    assert "default (bound)" == found["agent", "advertise"]
    assert "default (from dead_after_s)" == found["agent", "watchdog_s"]
    assert "default (in the home directory)" == found["agent", "data_dir"]


def test_each_option_is_explained_once_in_the_order_of_the_sections(tmp_path: Path) -> None:
    expected = [("", "preset"), *((section, option.name) for section in SECTIONS for option in options_of(section))]
    assert expected == [(row.section, row.key) for row in explain(configure(tmp_path, 'preset = "lan"'))]


def test_a_matchmaker_that_plays_no_part_is_not_explained(tmp_path: Path) -> None:
    assert not [row for row in explain(configure(tmp_path)) if row.section == "matchmaker.consul"]
    configured = configure(tmp_path, "[matchmaker.consul]\nttl_s = 20")
    assert Row("matchmaker.consul", "ttl_s", 20.0, f"file: {tmp_path / 'mesh.toml'}") in explain(configured)


def test_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.config.compose._SECRET_ENDINGS", ("zone",))
    config = configure(tmp_path, '[agent]\nzone = "rack-7"')
    assert ["***"] == [row.value for row in explain(config) if row.key == "zone"]


def test_the_watchdog_is_twice_the_dead_time_but_not_hasty(tmp_path: Path) -> None:
    assert 5.0 == configure(tmp_path).watchdog_s
    assert 24.0 == configure(tmp_path, "[heartbeat]\ndead_after_s = 12").watchdog_s
    assert 90.0 == configure(tmp_path, "[agent]\nwatchdog_s = 90").watchdog_s


def test_an_option_that_is_wrong_is_not_also_held_against_others(tmp_path: Path) -> None:
    assert problem(tmp_path, "[heartbeat]\ndead_after_s = 0.01").startswith("[heartbeat] dead_after_s = 0.01: must be")


def test_loopback_is_not_told_to_consul(tmp_path: Path) -> None:
    found = problem(tmp_path, 'preset = "lan"\n[agent]\nbind = ["127.0.0.1"]')
    assert found.startswith("[agent] advertise: 127.0.0.1 is this machine only, and with consul peers are on others")


def test_one_machine_may_use_consul_over_loopback(tmp_path: Path) -> None:
    assert "127.0.0.1" == configure(tmp_path, '[matchmaker]\nkind = "consul"').agent.advertise


def test_a_wildcard_is_told_to_nobody(tmp_path: Path) -> None:
    found = problem(tmp_path, '[agent]\nadvertise = "0.0.0.0"')
    assert found.startswith("[agent] advertise: 0.0.0.0 is a wildcard")


def test_a_socket_path_has_a_limit(tmp_path: Path) -> None:
    found = problem(tmp_path, f'[agent]\nsocket = "/{"s" * 107}"')
    assert "has 108 bytes, and a socket's path may have 107: choose a shorter one" in found


def test_without_a_place_for_the_socket_it_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tmp_path / "absent" / "mesh"
    monkeypatch.setattr("mesh.client.socketpath.RUN_PATH", str(absent / "agent.sock"))
    monkeypatch.setattr("mesh.client.socketpath.own_directory", lambda user: str(absent))
    found = problem(tmp_path, "", {"XDG_RUNTIME_DIR": ""})
    assert found.startswith("[agent] socket: no usual place can be used (")


def test_more_links_than_open_files_are_refused(tmp_path: Path) -> None:
    needed = configure(tmp_path).descriptors_needed
    assert needed == configure(tmp_path, descriptors_max=needed).descriptors_needed
    assert f"need {needed} open files" in problem(tmp_path, "", descriptors_max=needed - 1)


def test_an_option_of_the_wrong_type_is_not_looked_into(tmp_path: Path) -> None:
    text = 'preset = "lan"\n[agent]\nbind = "eth0"\n[matchmaker.consul]\naddress = 8500'
    assert [
        "[agent] bind = 'eth0': must be a list, not a string",
        "[matchmaker.consul] address = 8500: must be a string, not an integer",
    ] == problems(tmp_path, text)


def test_a_fleet_has_a_directory_of_its_own(tmp_path: Path) -> None:
    config = configure(tmp_path, '[agent]\nfleet = "staging"', {"XDG_STATE_HOME": "/var/state"})
    assert Path("/var/state/mesh/staging") == config.data_dir
    assert "/var/state/mesh/staging/matchmaker.sqlite" == config.sqlite.path


def test_what_peers_dial_has_the_listeners_port_unless_another_leads_there(tmp_path: Path) -> None:
    class Listener:
        def getsockname(self) -> tuple[str, int]:
            return "127.0.0.1", 40_001

    listeners: list[socket.socket] = [Listener()]  # type: ignore[list-item]
    assert Endpoint("127.0.0.1", 40_001) == configure(tmp_path).endpoint(listeners)
    nat = '[agent]\nlink_port = 7441\nadvertise = "203.0.113.9"\nadvertise_port = 9000'
    assert Endpoint("203.0.113.9", 9000) == configure(tmp_path, nat).endpoint(listeners)


def test_the_matchmaker_is_of_the_configured_kind(tmp_path: Path) -> None:
    for text, kind in (('preset = "local"', SqliteMatchmaker), ('preset = "lan"', ConsulMatchmaker)):
        matchmaker = configure(tmp_path, text).make_matchmaker()
        assert kind is type(matchmaker)
        matchmaker.close()


def test_revocations_are_heard_of_where_links_are_secured_and_agents_find_each_other_by_consul(tmp_path: Path) -> None:
    texts = ('preset = "lan"\n[agent]\nfleet = "prod"', 'preset = "lan"\n[security]\ncurve = false', 'preset = "local"')
    places = [configure(tmp_path, text).make_revocations() for text in texts]
    assert ["heartmesh/prod/revoked", None, None] == [place.key if place else None for place in places]


def test_consul_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mesh.matchmaker.consul", None)
    monkeypatch.setitem(sys.modules, "consul", None)
    for text in ('preset = "lan"', "[matchmaker.consul]\nttl_s = 20"):
        assert "pip install 'heartmesh[agent]'" in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a = 1\nb = \n", "is not usable TOML: Invalid value (at line 2, column 5)"),
        (b"# fine\n# \xff", "is not UTF-8 at line 2"),
        (b"#" * (FILE_BYTES_MAX + 1), "is larger than 1048576 bytes"),
        (b"a = " + b"[" * 100_000, "is not usable TOML: values are nested too deeply"),
        (b"\na." + b"a." * 100_000 + b"a = 1", "has a key of more than 32 parts at line 2"),
        (b"a = 1\n" + b'"\\"" . ' * 40 + b"a = 1", "has a key of more than 32 parts at line 2"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_the_place(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(path, {}, HOST)
    assert (expected,) == caught.value.problems


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "absent", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path, {}, HOST)
        assert (f"cannot be read: {expected}",) == caught.value.problems


SCALARS = st.one_of(
    st.integers(),
    st.floats().map(lambda number: f"{number!r}"),
    st.booleans().map(lambda value: str(value).lower()),
    st.text(st.characters(codec="utf-8", exclude_characters='"\\')).map(lambda text: f'"{text}"'),
    st.sampled_from(["[]", "{}", "[[]]", "{a = 1}", "1979-05-27", f"0x{'f' * 5000}", "9" * 5000, "nan", '"\\u0000"']),
)
OPTIONS = st.sampled_from([f"{section}.{option.name}" for section in SECTIONS for option in options_of(section)])
LINES = st.lists(st.one_of(st.builds("{} = {}".format, OPTIONS, SCALARS), st.text(max_size=30)), max_size=8)
FILES = st.one_of(st.binary(max_size=300), LINES.map(lambda lines: "\n".join(lines).encode(errors="replace")))


@given(data=FILES)
def test_any_file_is_a_configuration_or_a_configuration_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    found: list[Row] = []
    told: tuple[str, ...] = ()
    try:
        found = explain(load(path, {"MESH_SOCKET": "/run/mesh.sock"}, HOST))
    except ConfigError as error:
        told = error.problems
    assert bool(found) != bool(told)
    assert not [problem for problem in told if not problem or "\n" in problem]


@pytest.mark.io
def test_the_machine_at_hand_can_be_asked() -> None:
    machine = this_machine()
    assert machine.hostname
    assert machine.descriptors_max > 0
    assert "127.0.0.1" in machine.network.interfaces["lo"]


@pytest.mark.system
def test_importing_the_configuration_brings_none_of_the_agents_libraries() -> None:
    heavy = "{'gevent', 'zmq', 'requests', 'consul', 'structlog'}"
    program = f"import sys, mesh.config; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "[]" == done.stdout.strip()


POLICY = """
[policy]
default = "deny"
[policy.rules.web]
effect = "allow"
users = ["www-*"]
[policy.tokens.jobs]
file = "{file}"
groups = ["batch"]
"""


def test_a_policy_is_composed_and_its_tokens_are_read_from_their_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    config = configure(tmp_path, POLICY.format(file=file))
    assert (tmp_path / "mesh.toml", "deny", Rule("allow", users=("www-*",))) == (
        config.path,
        config.policy.default,
        config.policy.rules["web"],
    )
    with pytest.raises(ConfigError, match="must hold one token"):
        config.load_tokens()
    file.write_text("0123456789abcdef")
    assert Bearer("jobs", ("batch",)) == config.load_tokens().bearer(digest_of(b"0123456789abcdef"))
    assert configure(tmp_path).path is None


def test_a_policy_is_wrong_in_all_its_places_at_once(tmp_path: Path) -> None:
    text = POLICY.format(file="token") + '[policy.rules.other]\neffect = "only"\nnodez = ["a"]\n[policy.rules.no]\n'
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, text)
    assert [
        "[policy] rules.other.nodez = […]: unknown option; did you mean nodes?",
        "[policy] rules.no = {…}: needs effect",
        "[policy] tokens.jobs.file = 'token': must be an absolute path",
    ] == list(caught.value.problems)
