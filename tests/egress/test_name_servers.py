"""Oracle: name servers made for the test, which count the questions."""

import asyncio
import time

import pytest

from neuclip.egress.config import EgressConfig
from neuclip.egress.refusal import Refusal
from neuclip.egress.resolver import CheckedResolver
from tests.servers.dns import SERVER_FAILS, SILENT, addresses, name_server

PUBLIC = "192.52.193.9"
SECONDS = 15


def checked(servers, *names):
    """Ask for names at the same time, and return the addresses or the reason of each."""

    async def ask(resolver, name):
        try:
            return [str(address) for address in await resolver.checked(name, 80)]
        except Refusal as refusal:
            return refusal.reason

    async def ask_all():
        config = EgressConfig(dns_servers=[server.address for server in servers])
        resolver = CheckedResolver(config)
        return await asyncio.gather(*(ask(resolver, name) for name in names))

    return asyncio.run(ask_all())


@pytest.mark.parametrize("broken", [SERVER_FAILS, SILENT])
def test_the_second_name_server_is_asked_when_the_first_fails(broken):
    with (
        name_server({"a.test": [broken]}) as first,
        name_server({"a.test": [addresses(PUBLIC)]}) as second,
    ):
        began = time.monotonic()
        assert checked([first, second], "a.test") == [[PUBLIC]]
        assert time.monotonic() - began < SECONDS
        assert first.count("a.test") >= 1


def test_a_name_is_asked_for_once_however_many_wait():
    with name_server({"a.test": [addresses(PUBLIC)]}) as server:
        assert checked([server], *["a.test", "A.TEST"] * 50) == [[PUBLIC]] * 100
        assert (server.count("a.test"), server.count("a.test", "AAAA")) == (1, 1)


def test_a_name_that_does_not_exist_is_asked_for_once():
    with name_server({}) as server:
        assert checked([server], *["a.test"] * 50) == ["dns"] * 50
        assert 1 <= server.count("a.test") + server.count("a.test", "AAAA") <= 2


def test_a_name_that_is_half_private_is_refused_as_a_whole():
    table = {"a.test": [addresses(PUBLIC, "::1")], "b.test": [addresses("10.0.0.1", PUBLIC)]}
    with name_server(table) as server:
        assert checked([server], "a.test", "b.test") == ["private_address"] * 2
