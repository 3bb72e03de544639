"""A real name server on loopback, over UDP: a table of names, and for each the answers in their order."""

import asyncio
import threading
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.servers.threads import LoopThread

HOST = "127.0.0.1"
_VERSIONS = {dns.rdatatype.A: ".", dns.rdatatype.AAAA: ":"}
"""What an address of the type has and one of the other type lacks."""


@dataclass(frozen=True)
class Answer:
    """What a question for a name gets."""

    addresses: tuple[str, ...] = ()
    """Of both kinds; a question for A gets the IPv4 ones, a question for AAAA the others."""
    alias: str | None = None
    """The canonical name that the addresses belong to."""
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    ttl_s: int = 60
    is_silent: bool = False
    is_garbage: bool = False


def addresses(*found: str, alias: str | None = None, ttl_s: int = 60) -> Answer:
    """Return the answer that lists addresses."""
    return Answer(found, alias=alias, ttl_s=ttl_s)


SILENT = Answer(is_silent=True)
GARBAGE = Answer(is_garbage=True)
SERVER_FAILS = Answer(rcode=dns.rcode.SERVFAIL)
REFUSES = Answer(rcode=dns.rcode.REFUSED)
NO_SUCH_NAME = Answer(rcode=dns.rcode.NXDOMAIN)

Table = Mapping[str, Sequence[Answer]]
"""Name in lower case, without a dot at its end -> the answers to its first, second, ... question of one type; the
last is given again and again. Other names do not exist."""


class NameServer(asyncio.DatagramProtocol):
    """Answers from the table and counts the questions.

    Args:
        table: may be added to while the server runs.
    """

    def __init__(self, table: Table) -> None:
        self.table = dict(table)
        self.port = 0
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, dns.rdatatype.RdataType]] = Counter()
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> str:
        """`ip:port` of the server."""
        return f"{HOST}:{self.port}"

    def count(self, name: str, kind: str = "A") -> int:
        """Return how often a name was asked for."""
        with self._lock:
            return self._counts[name, dns.rdatatype.from_text(kind)]

    def begin(self, transport: asyncio.DatagramTransport) -> None:
        """Answer through a socket that is bound."""
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            question = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return
        reply = self._reply(question)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)

    def _reply(self, question: dns.message.Message) -> bytes | None:
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        with self._lock:
            number = self._counts[name, asked.rdtype]
            self._counts[name, asked.rdtype] += 1
        answers = self.table.get(name, (NO_SUCH_NAME,))
        answer = answers[min(number, len(answers) - 1)]
        if answer.is_silent:
            return None
        if answer.is_garbage:
            return question.id.to_bytes(2, "big") + b"\xff" * 20
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.AA | dns.flags.RA
        reply.set_rcode(answer.rcode)
        _add_records(reply, asked, answer)
        return reply.to_wire()


def _add_records(reply: dns.message.Message, asked: dns.rrset.RRset, answer: Answer) -> None:
    owner = asked.name
    kind = dns.rdataclass.IN
    if answer.alias is not None:
        canonical = dns.name.from_text(answer.alias)
        text = canonical.to_text()
        reply.answer.append(
            dns.rrset.from_text(owner, answer.ttl_s, kind, dns.rdatatype.CNAME, text)
        )
        owner = canonical
    mark = _VERSIONS.get(asked.rdtype, "no address has this")
    texts = [text for text in answer.addresses if mark in text and (mark == ":" or ":" not in text)]
    if texts:
        reply.answer.append(
            dns.rrset.from_text_list(owner, answer.ttl_s, kind, asked.rdtype, texts)
        )


@contextmanager
def name_server(table: Table) -> Generator[NameServer]:
    """Answer while the block runs."""
    server = NameServer(table)
    with LoopThread("name-server") as thread:
        endpoint = thread.loop.create_datagram_endpoint(lambda: server, local_addr=(HOST, 0))
        transport, _ = thread.run(endpoint)
        server.begin(transport)
        try:
            yield server
        finally:
            thread.loop.call_soon_threadsafe(transport.close)
