"""Which URL may be asked, and which address connected to: parsed once, by the parser that the connection uses."""

import ipaddress
import re
import socket
from collections.abc import Iterable

from yarl import URL

from neuclip.egress.refusal import Refusal

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
"""Control characters, backslashes, and bytes that are no UTF-8."""
_AUTHORITY = re.compile(r"(?:[^/?#]*:)?//([^/?#]*)")
_LAST_LABEL_IS_A_NUMBER = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9._-]+", re.IGNORECASE)
_LABEL_CHARACTERS, _NAME_CHARACTERS = 63, 253
_SCHEMES = ("http", "https")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""The only part of IPv6 that hosts of the public internet have addresses from (RFC 4291; IANA hands out no other)."""
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments; a cloud keeps its metadata there
        "192.88.99.0/24",  # relays of 6to4, which is gone
        "168.63.129.16/32",  # the inner service of a cloud, at an address that looks public
        "3fff::/20",  # documentation
    )
]
"""What `is_global` of some Python releases lets through."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse(text: str) -> URL:
    """Return the URL that is to be fetched.

    Raises: Refusal: `bad_scheme` unless it is http or https; `bad_url` if parsers may not agree on its host;
        `private_address` if it names the host by a number in an odd form that means a private address.
    """
    if _FORBIDDEN.search(text):
        raise Refusal("bad_url", "backslash, control character, or not UTF-8")
    _check_brackets(text)
    try:
        url = URL(text)
        scheme, host, port = url.scheme.lower(), url.raw_host, url.port
    except (ValueError, UnicodeError) as error:
        raise Refusal("bad_url", str(error)) from error
    if scheme not in _SCHEMES:
        raise Refusal("bad_scheme", f"scheme {scheme!r}")
    if not host or not port:
        raise Refusal("bad_url", "no host" if not host else "port 0")
    if url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority:
        raise Refusal("bad_url", "user name or password before the host")
    if ":" not in host:
        _check_name(host)
    return url.with_fragment(None)


def target(url: URL, location: str) -> URL:
    """Return the URL that a redirect leads to.

    Raises: Refusal: as parse does.
    """
    if "\\" in location:
        return parse(location)
    _check_brackets(location)
    try:
        joined = url.join(URL(location))
    except (ValueError, UnicodeError) as error:
        raise Refusal("bad_url", f"redirect to {location!r}: {error}") from error
    return parse(str(joined))


def literal(host: str) -> Address | None:
    """Return the address that a host is written as, None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public internet, also the one that it embeds."""
    if address.is_multicast or not address.is_global or any(address in net for net in _NOT_PUBLIC):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    return (address in _UNICAST or address in _NAT64) and all(map(is_public, _embedded(address)))


def is_allowed(host: str, port: int, allow_hosts: Iterable[str]) -> bool:
    """Tell whether the recipe opens a host, on this port, although its address is private."""
    host = host.lower().rstrip(".")
    bracketed = f"[{host}]" if ":" in host else host
    return any(entry.lower() in (host, f"{bracketed}:{port}") for entry in allow_hosts)


def _embedded(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address leads to."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def _check_brackets(text: str) -> None:
    """Refuse brackets around anything but an IPv6 address: parsers take some of it for a name.

    Raises: Refusal: `bad_url`.
    """
    found = _AUTHORITY.match(text.strip())
    authority = found[1].rpartition("@")[2] if found else ""
    if "[" not in authority and "]" not in authority:
        return
    host = authority.removeprefix("[").partition("]")[0]
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise Refusal("bad_url", f"[{host}] is no IPv6 address") from error
    if "%" in host:
        raise Refusal("bad_url", f"[{host}] names a zone, which only this machine knows")


def _check_name(host: str) -> None:
    """Refuse what some resolvers take for a number, and what no name server can answer.

    Raises: Refusal
    """
    if not _NAME.fullmatch(host):
        raise Refusal("bad_url", f"a character of the host {host!r} is none of names")
    labels = host.rstrip(".").split(".")
    if not all(labels) or len(host) > _NAME_CHARACTERS:
        raise Refusal("bad_url", "empty label in the host" if not all(labels) else "host too long")
    if any(len(label) > _LABEL_CHARACTERS for label in labels):
        raise Refusal(
            "bad_url", f"a label of the host has more than {_LABEL_CHARACTERS} characters"
        )
    if not _LAST_LABEL_IS_A_NUMBER.search(host) or literal(host) is not None:
        return
    try:
        meant = ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
    except OSError as error:
        raise Refusal("bad_url", f"host {host} is neither a name nor an address") from error
    if not is_public(meant):
        raise Refusal("private_address", f"{host} means {meant}")
    raise Refusal("bad_url", f"host {host} is an odd form of {meant}")
