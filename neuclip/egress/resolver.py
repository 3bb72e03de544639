"""Names to addresses: asked once, kept for their time to live, and handed on only if they may be connected to."""

import asyncio
import socket
import time
from collections.abc import Sequence

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver
from aiohttp.abc import AbstractResolver, ResolveResult
from cachetools import LRUCache

from neuclip.egress.addresses import Address, is_allowed, is_public, literal
from neuclip.egress.config import EgressConfig, name_server
from neuclip.egress.refusal import Refusal

_NAMES_KEPT = 50_000
_LIFETIME_S = 8.0
_FAILED_FOR_S = 30.0
_KEPT_AT_LEAST_S = 30.0
_TYPES = (dns.rdatatype.A, dns.rdatatype.AAAA)
_LOCALHOST = "localhost"


class CheckedResolver(AbstractResolver):
    """Resolves for aiohttp's connector, which connects to these addresses and no others.

    A name with one private address among public ones is refused as a whole: no honest site has it.
    """

    def __init__(self, config: EgressConfig) -> None:
        self._allow_hosts, self._allow_ports = config.allow_hosts, config.allow_ports
        self._asked = _name_servers(config.dns_servers)
        self._kept = LRUCache[str, tuple[float, asyncio.Future[list[Address]]]](_NAMES_KEPT)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses to connect to.

        Raises: Refusal: `dns` if there is none, `private_address` if one is not public.
        """
        addresses = await self.checked(host, port)
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=families[address.version],
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
            if family in (socket.AF_UNSPEC, families[address.version])
        ]

    async def checked(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a name, or the address that it is, if they may be connected to on a port.

        Raises: Refusal: `dns`, `private_address` or `bad_port`.
        """
        written = literal(host)
        addresses = [written] if written is not None else await self._addresses(host.lower())
        if not is_allowed(host, port, self._allow_hosts):
            for address in addresses:
                if not is_public(address):
                    raise Refusal("private_address", f"{host} is {address}, which is not public")
            if port not in self._allow_ports:
                ports = ", ".join(map(str, self._allow_ports))
                raise Refusal("bad_port", f"port {port} of {host}, allowed are {ports}")
        return addresses

    async def close(self) -> None:
        """Nothing is open between questions."""

    async def _addresses(self, name: str) -> list[Address]:
        """Ask once for a name, however many wait for the answer; failures are kept too, for a shorter time."""
        until, answer = self._kept.get(name, (0.0, None))
        if answer is None or (answer.done() and time.monotonic() > until):
            answer = asyncio.get_running_loop().create_future()
            self._kept[name] = (0.0, answer)
            try:
                addresses, for_s = await self._ask(name)
                answer.set_result(addresses)
            except BaseException as error:
                for_s = _FAILED_FOR_S
                answer.set_exception(
                    error
                    if isinstance(error, Refusal)
                    else Refusal("dns", "the question was given up")
                )
                answer.exception()  # somebody has looked at it: nobody else may be waiting
                if not isinstance(error, Refusal):
                    self._kept.pop(name, None)
                    raise
            self._kept[name] = (time.monotonic() + max(for_s, _KEPT_AT_LEAST_S), answer)
        return await asyncio.shield(answer)

    async def _ask(self, name: str) -> tuple[list[Address], float]:
        if name.rstrip(".") == _LOCALHOST:
            loopback = literal("127.0.0.1")
            assert loopback is not None
            return [loopback], _FAILED_FOR_S
        answers = await asyncio.gather(*(self._records(name, kind) for kind in _TYPES))
        addresses = [address for found, _ in answers for address in found]
        if not addresses:
            raise Refusal("dns", f"{name} has no address")
        return addresses, min(ttl for found, ttl in answers if found)

    async def _records(
        self, name: str, kind: dns.rdatatype.RdataType
    ) -> tuple[list[Address], float]:
        try:
            answer = await self._asked.resolve(name, kind, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            raise Refusal("dns", f"there is no {name}") from error
        except dns.exception.DNSException as error:
            raise Refusal("dns", f"{name}: {type(error).__name__}") from error
        if answer.rrset is None:
            return [], 0.0
        found = [literal(str(record)) for record in answer.rrset]
        return [address for address in found if address is not None], float(answer.rrset.ttl)


def _name_servers(configured: Sequence[str]) -> dns.asyncresolver.Resolver:
    """Return the client of the recipe's name servers, or of the system's; each is tried in turn."""
    if configured:
        asked = dns.asyncresolver.Resolver(configure=False)
        asked.nameservers = [
            dns.nameserver.Do53Nameserver(*name_server(server)) for server in configured
        ]
    else:
        try:
            asked = dns.asyncresolver.Resolver()
        except (
            dns.resolver.NoResolverConfiguration
        ):  # a machine without a network: literal addresses still work
            asked = dns.asyncresolver.Resolver(configure=False)
    asked.lifetime = _LIFETIME_S
    asked.timeout = _LIFETIME_S / 3
    return asked
