"""What this machine is called on the network that leads to another one."""

import fcntl
import ipaddress
import socket
import struct

from neuclip.foundation.errors import ConfigError

_GET_ADDRESS = 0x8915  # SIOCGIFADDR
_NAME_BYTES = 256


def own_address(endpoint: str) -> str:
    """Return the address of this machine that packets to `host:port` come from; nothing is sent.

    Raises: ConfigError: if the name is not known here, or leads to this machine alone.
    """
    host, _, port = endpoint.rpartition(":")
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"{socket.gethostname()} finds no way to {endpoint}, where the ranks meet: {error}; name the first "
            "machine by an address that all machines reach"
        ) from error
    if ipaddress.ip_address(address).is_loopback and not _means_this_machine(host):
        raise ConfigError(
            f"on {socket.gethostname()} the name {host} leads to {address}, which no other machine reaches; "
            "name the first machine by its address on the network"
        )
    return address


def interface_of(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address, None where none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack(f"{_NAME_BYTES}s", name.encode())
            try:
                answer = fcntl.ioctl(probe, _GET_ADDRESS, request)
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _means_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
