"""Where to listen and what to tell peers: addresses as they are, or those of an interface.

An interface stands for its first IPv4 address and for its lasting global IPv6 ones: temporary addresses change, and
link-local ones mean nothing to another machine. Linux only: the kernel is asked through /proc and one ioctl.
"""

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from mesh.config.parse import nearest
from mesh.types import Endpoint

__all__ = ["Network", "advertised", "bound", "is_loopback", "listen_address", "read_network"]

_SIOCGIFADDR = 0x8915
_ROUTE_UP = 0x1
_ROUTE_REJECT = 0x200
# Temporary, failed duplicate detection, deprecated, tentative (linux/if_addr.h).
_UNFIT_IPV6 = 0x01 | 0x08 | 0x20 | 0x40
_SCOPE_LINK = 0x20

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Network(Struct, frozen=True):
    """What this machine's network looks like: addresses by interface, and the interfaces of the default routes."""

    interfaces: Mapping[str, tuple[str, ...]] = {}
    default_ipv4: str = ""
    default_ipv6: str = ""


def read_network(proc: Path = Path("/proc/net")) -> Network:
    """Ask the kernel."""
    addresses: dict[str, list[str]] = {name: _ipv4(name) for _, name in socket.if_nameindex()}
    for name, address in _ipv6(_text(proc / "if_inet6")):
        addresses.setdefault(name, []).append(address)
    return Network(
        {name: tuple(found) for name, found in addresses.items()},
        _default_ipv4(_text(proc / "route")),
        _default_ipv6(_text(proc / "ipv6_route")),
    )


def listen_address(text: str) -> Endpoint:
    """Return the address and port of ADDRESS:PORT; raises ValueError with what is wrong."""
    host, colon, port = text.rpartition(":")
    inner = host.removeprefix("[").removesuffix("]")
    address = _parse(inner)
    if not colon or address is None or (address.version == 6) != (host == f"[{inner}]"):
        raise ValueError("must be ADDRESS:PORT with a numeric address, as 127.0.0.1:7442 or [::1]:7442")
    if not (port.isascii() and port.isdigit() and int(port[:6]) <= 65_535):
        raise ValueError("its port must be a number up to 65535 (0: a free one)")
    return Endpoint(str(address), int(port))


def is_loopback(host: str) -> bool:
    """Return whether a numeric address is of this machine alone."""
    return ipaddress.ip_address(host).is_loopback


def bound(entries: Sequence[str], network: Network) -> tuple[tuple[str, ...], list[str]]:
    """Return the numeric addresses to listen on, and what is wrong with the entries."""
    hosts: list[str] = []
    problems: list[str] = []
    for entry in entries:
        address = _parse(entry)
        if address is None:
            found = network.interfaces.get(entry, ())
            hosts += found
            if not found:
                problems.append(_no_interface(entry, network))
        elif problem := _unbindable(address):
            problems.append(f"{entry!r} {problem}")
        else:
            hosts.append(str(address))
    unique = tuple(dict.fromkeys(hosts))
    for wildcard in ("0.0.0.0", "::"):
        covered = [host for host in unique if host != wildcard and (":" in host) == (":" in wildcard)]
        if wildcard in unique and covered:
            problems.append(f"{wildcard!r} is every address already: leave out {', '.join(covered)}")
    return unique, problems


def advertised(entry: str, hosts: Sequence[str], network: Network, *, fleet_wide: bool) -> tuple[str, str]:
    """Return the address that peers dial and how it was found; raises ValueError that says what is wrong.

    ``entry`` is what was configured, ``hosts`` is where is listened. ``fleet_wide``: peers may be on other machines.
    """
    if entry:
        address = _parse(entry)
        host, how = (str(address), "") if address else _of_interface(entry, hosts, network)
    else:
        host, how = _guess(hosts, network)
    if problem := _undialable(ipaddress.ip_address(host), fleet_wide=fleet_wide):
        raise ValueError(f"{host} {problem}")
    return host, how


def _parse(entry: str) -> _Address | None:
    try:
        return ipaddress.ip_address(entry)
    except ValueError:
        return None


def _no_interface(entry: str, network: Network) -> str:
    if entry in network.interfaces:
        return f"interface {entry!r} has no address that peers could dial: give it one, or name an address"
    close = nearest(entry, network.interfaces)
    hint = f"did you mean {close}?" if close else f"interfaces are {', '.join(network.interfaces) or 'not known'}"
    return f"{entry[:64]!r} is neither an address nor an interface of this machine: {hint}"


def _unbindable(address: _Address) -> str | None:
    if address.is_multicast:
        return "is a multicast address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return f"is an IPv4 address in IPv6's clothes: write {address.ipv4_mapped}"
        if address.is_link_local and not address.scope_id:
            return f"is link-local and needs its interface: {address}%INTERFACE"
    return None


def _undialable(address: _Address, *, fleet_wide: bool) -> str | None:
    if address.is_unspecified:
        return "is a wildcard, nobody can dial it: name an address or an interface"
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        return "is not the address of one machine"
    if isinstance(address, ipaddress.IPv6Address) and (address.is_link_local or address.ipv4_mapped):
        return "means nothing to another machine: name a global or unique local (fd…) address, or an IPv4 one"
    if fleet_wide and address.is_loopback:
        return "is this machine only, and with consul peers are on others: set bind or advertise, or preset local"
    return None


def _of_interface(name: str, hosts: Sequence[str], network: Network) -> tuple[str, str]:
    """Return an interface's address, of a family that is listened on if it has one."""
    addresses = network.interfaces.get(name, ())
    if not addresses:
        raise ValueError(_no_interface(name, network))
    families = {":" in host for host in hosts}
    fitting = [address for address in addresses if (":" in address) in families]
    return (fitting or list(addresses))[0], f"of {name}"


def _guess(hosts: Sequence[str], network: Network) -> tuple[str, str]:
    """Return the first bound address that others can dial, a loopback last; for a wildcard the default route's."""
    concrete = [host for host in hosts if not ipaddress.ip_address(host).is_unspecified]
    dialable = [host for host in concrete if not _undialable(ipaddress.ip_address(host), fleet_wide=True)]
    if dialable:
        return dialable[0], "bound"
    for wildcard, name in (("0.0.0.0", network.default_ipv4), ("::", network.default_ipv6)):
        family = [a for a in network.interfaces.get(name, ()) if (":" in a) == (":" in wildcard)]
        if wildcard in hosts and family:
            return family[0], f"of {name}, the default route's"
    if concrete:
        return concrete[0], "bound"
    raise ValueError("no default route to take an address from: name the address that peers reach this machine at")


def _ipv4(name: str) -> list[str]:
    """Return an interface's first IPv4 address, if it has one."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        return [socket.inet_ntoa(answer[20:24])]
    return []


def _ipv6(if_inet6: str) -> Iterator[tuple[str, str]]:
    """Yield (interface, address) of the lasting addresses that are not link-local."""
    for line in if_inet6.splitlines():
        digits, _, _, scope, flags, name = line.split()
        if int(scope, 16) != _SCOPE_LINK and not int(flags, 16) & _UNFIT_IPV6:
            yield name, str(ipaddress.IPv6Address(int(digits, 16)))


def _default_ipv4(route: str) -> str:
    """Return the interface of the default route with the lowest metric."""
    found = []
    for line in route.splitlines()[1:]:
        name, destination, _, flags, _, _, metric, mask, *_ = line.split()
        if int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & (_ROUTE_UP | _ROUTE_REJECT) == _ROUTE_UP:
            found.append((int(metric), name))
    return min(found, default=(0, ""))[1]


def _default_ipv6(ipv6_route: str) -> str:
    """Return the same for IPv6."""
    found = []
    for line in ipv6_route.splitlines():
        destination, prefix, _, _, _, metric, _, _, flags, name = line.split()
        default = int(destination, 16) == int(prefix, 16) == 0
        if default and int(flags, 16) & (_ROUTE_UP | _ROUTE_REJECT) == _ROUTE_UP:
            found.append((int(metric, 16), name))
    return min(found, default=(0, ""))[1]


def _text(path: Path) -> str:
    """Return a file's text; a kernel without that family has none."""
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
