"""Which addresses are listened on, and which one peers are told."""

from pathlib import Path

import pytest

from mesh.config.addresses import Network, advertised, bound, read_network
from tests.config.machines import NETWORK

IF_INET6 = """\
fe80000000000000021122fffe334455 02 40 20 80     eth0
20010db8000000000000000000000007 02 40 00 80     eth0
20010db80000000000000000000000aa 02 40 00 01     eth0
20010db80000000000000000000000bb 02 40 00 a0     eth0
20010db80000000000000000000000cc 02 40 00 c8     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""
ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
down0\t00000000\t010200C0\t0002\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
IPV6_ROUTE = """\
20010db8000000000000000000000000 40 {0} 00 {0} 00000100 00000001 00000000 00000001     eth0
{0} 00 {0} 00 20010db8000000000000000000000001 00000400 00000002 00000000 00000003     eth0
{0} 00 {0} 00 20010db8000000000000000000000001 00000100 00000002 00000000 00000003      wg0
{0} 00 {0} 00 {0} ffffffff 00000001 00000000 00200200       lo
""".format("0" * 32)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (("192.0.2.7",), ("192.0.2.7",)),
        (("2001:DB8:0::7",), ("2001:db8::7",)),
        (("0.0.0.0", "::"), ("0.0.0.0", "::")),
        (("eth0",), ("192.0.2.7", "2001:db8::7")),
        (("lo", "127.0.0.1"), ("127.0.0.1", "::1")),
        (("fe80::1%eth0",), ("fe80::1%eth0",)),
    ],
)
def test_addresses_and_interfaces_become_numeric_addresses(entries: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert (expected, []) == bound(entries, NETWORK)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (("eth2",), "'eth2' is neither an address nor an interface of this machine: did you mean eth1?"),
        (("localhost.example",), "'localhost.example' is neither an address nor an interface of this machine"),
        (("down0",), "interface 'down0' has no address that peers could dial"),
        (("fe80::1",), "'fe80::1' is link-local and needs its interface: fe80::1%INTERFACE"),
        (("::ffff:192.0.2.7",), "write 192.0.2.7"),
        (("224.0.0.1",), "'224.0.0.1' is a multicast address"),
        (("0.0.0.0", "eth1"), "'0.0.0.0' is every address already: leave out 198.51.100.7"),
        (("::", "wg0"), "'::' is every address already: leave out fd00::7"),
        (("010.0.0.1",), "'010.0.0.1' is neither an address"),
    ],
)
def test_what_cannot_be_listened_on_is_said(entries: tuple[str, ...], expected: str) -> None:
    _, problems = bound(entries, NETWORK)
    assert [True] == [expected in problem for problem in problems]


def test_every_wrong_entry_is_said() -> None:
    assert 2 == len(bound(("eth8", "224.0.0.1", "eth0"), NETWORK)[1])


@pytest.mark.parametrize(
    ("entry", "hosts", "expected"),
    [
        ("", ("192.0.2.7",), ("192.0.2.7", "bound")),
        ("", ("127.0.0.1", "198.51.100.7"), ("198.51.100.7", "bound")),
        ("", ("::1", "127.0.0.1"), ("::1", "bound")),
        ("", ("0.0.0.0",), ("192.0.2.7", "of eth0, the default route's")),
        ("", ("::",), ("2001:db8::7", "of eth0, the default route's")),
        ("", ("0.0.0.0", "::"), ("192.0.2.7", "of eth0, the default route's")),
        ("", ("0.0.0.0", "fd00::7"), ("fd00::7", "bound")),
        ("203.0.113.9", ("0.0.0.0",), ("203.0.113.9", "")),
        ("eth0", ("0.0.0.0",), ("192.0.2.7", "of eth0")),
        ("eth0", ("::",), ("2001:db8::7", "of eth0")),
        ("eth1", ("::",), ("198.51.100.7", "of eth1")),
        ("127.0.0.1", ("0.0.0.0",), ("127.0.0.1", "")),
    ],
)
def test_peers_are_told_one_address(entry: str, hosts: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert expected == advertised(entry, hosts, NETWORK, fleet_wide=False)


@pytest.mark.parametrize(
    ("entry", "hosts", "expected"),
    [
        ("0.0.0.0", ("0.0.0.0",), "0.0.0.0 is a wildcard"),
        ("::", ("::",), ":: is a wildcard"),
        ("127.0.0.1", ("0.0.0.0",), "127.0.0.1 is this machine only"),
        ("", ("::1",), "::1 is this machine only"),
        ("lo", ("0.0.0.0",), "127.0.0.1 is this machine only"),
        ("fe80::1%eth0", ("::",), "means nothing to another machine"),
        ("", ("fe80::1%eth0",), "means nothing to another machine"),
        ("ff02::1", ("::",), "is not the address of one machine"),
        ("255.255.255.255", ("0.0.0.0",), "is not the address of one machine"),
        ("eth2", ("0.0.0.0",), "did you mean eth1?"),
    ],
)
def test_a_fleet_is_not_told_what_it_cannot_dial(entry: str, hosts: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        advertised(entry, hosts, NETWORK, fleet_wide=True)
    assert expected in str(caught.value)


def test_without_a_default_route_the_address_has_to_be_named() -> None:
    with pytest.raises(ValueError, match="no default route to take an address from: name the address"):
        advertised("", ("0.0.0.0",), Network(interfaces=NETWORK.interfaces), fleet_wide=True)


@pytest.mark.io
def test_the_kernel_lists_lasting_addresses_and_the_cheapest_default_routes(tmp_path: Path) -> None:
    for name, text in (("if_inet6", IF_INET6), ("route", ROUTE), ("ipv6_route", IPV6_ROUTE)):
        (tmp_path / name).write_text(text)
    network = read_network(tmp_path)
    assert ("eth0", "wg0") == (network.default_ipv4, network.default_ipv6)
    assert ["2001:db8::7"] == [address for address in network.interfaces["eth0"] if ":" in address]
    assert ("127.0.0.1", "::1") == network.interfaces["lo"]


@pytest.mark.io
def test_a_kernel_without_a_family_has_no_addresses_of_it(tmp_path: Path) -> None:
    network = read_network(tmp_path)
    assert ("", "") == (network.default_ipv4, network.default_ipv6)
    assert ("127.0.0.1",) == network.interfaces["lo"]
