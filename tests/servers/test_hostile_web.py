"""The servers of the hostile web do what the tests of the guard rely on."""

import http.client
import os
import socket
import ssl
from contextlib import closing

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.egress.cases import hostile_cases
from tests.servers.hostile import PICTURE, PUBLIC, all_sites, hostile_web


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    with hostile_web(tmp_path_factory.mktemp("web")) as running:
        yield running


def ask_web(web, site, path, *, timeout=5):
    connection = http.client.HTTPConnection("127.0.0.1", web.ports["web"], timeout=timeout)
    with closing(connection):
        connection.request("GET", path, headers={"Host": f"{site}.test:{web.ports['web']}"})
        reply = connection.getresponse()
        with closing(reply):
            return reply.status, reply.getheader("Location"), reply.read()


def ask_names(web, name, kind="A"):
    question = dns.message.make_query(name, kind)
    reply = dns.query.udp(question, "127.0.0.1", port=web.names.port, timeout=1)
    return reply.rcode(), [str(record) for found in reply.answer for record in found]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
def test_the_canary_hears_every_visit(web, host):
    """A canary that hears nothing would let every test of the guard pass."""
    before = len(web.canary.visits)
    with socket.create_connection((host, web.canary.port)) as visitor:
        visitor.sendall(b"GET /secret HTTP/1.1\r\n\r\n")
        assert visitor.recv(12) == b"HTTP/1.1 200"
    assert web.canary.visits[before:] == ["b'GET /secret HTTP/1.1\\r\\n'"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can keep a public address on loopback")
def test_names_get_their_answers_in_turn(web):
    """Oracle: another client of the same protocol."""
    assert ask_names(web, "rebinding.test") == (dns.rcode.NOERROR, [PUBLIC])
    assert ask_names(web, "rebinding.test", "AAAA") == (dns.rcode.NOERROR, [])
    assert ask_names(web, "REBINDING.test") == (dns.rcode.NOERROR, ["127.0.0.1"])
    assert ask_names(web, "rebinding.test") == (dns.rcode.NOERROR, ["127.0.0.1"])
    assert (web.names.count("rebinding.test"), web.names.count("rebinding.test", "AAAA")) == (3, 1)


def test_names_fail_as_they_were_told(web):
    assert ask_names(web, "private-six.test", "AAAA")[1] == ["::1"]
    assert ask_names(web, "private-six.test")[1] == []
    assert ask_names(web, "mapped.test", "AAAA")[1] == ["::ffff:127.0.0.1"]
    assert ask_names(web, "alias.test")[1] == ["private.test.", "127.0.0.1"]
    assert sorted(ask_names(web, "mixed.test")[1]) == ["127.0.0.1", PUBLIC]
    assert ask_names(web, "nowhere.test") == (dns.rcode.NXDOMAIN, [])
    assert ask_names(web, "server-fails.test") == (dns.rcode.SERVFAIL, [])
    with pytest.raises(dns.exception.Timeout):
        ask_names(web, "silent.test")
    with pytest.raises(dns.exception.DNSException):
        ask_names(web, "garbage.test")


def test_requests_and_bytes_are_counted_by_path(web):
    for _ in range(2):
        assert ask_web(web, "urls", "/same.jpg?x")[0] == 404
    assert ask_web(web, "urls", "/good.jpg")[2] == PICTURE
    assert web.counts.requests("urls", "/same.jpg?x") == 2
    assert web.counts.requests("urls", "/good.jpg") == 1
    assert web.counts.sent_bytes("urls", "/good.jpg") > len(PICTURE)
    assert web.counts.requests("pictures", "/good.jpg") == 0


def test_answers_go_wrong_as_they_were_told(web):
    _, location, _ = ask_web(web, "redirects", "/to/loopback")
    assert location == f"http://127.0.0.1:{web.canary.port}/"
    assert [ask_web(web, "down-once", "/good.jpg")[0] for _ in range(3)] == [503, 200, 200]
    with pytest.raises(TimeoutError):
        ask_web(web, "slow", "/silence", timeout=0.3)
    with pytest.raises(ConnectionResetError):
        ask_web(web, "protocol", "/resets")
    with pytest.raises(http.client.RemoteDisconnected):
        ask_web(web, "protocol", "/hangs-up")
    with pytest.raises(http.client.IncompleteRead):
        ask_web(web, "lengths", "/longer")


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("tls", None),
        ("another_host", "Hostname mismatch"),
        ("expired", "expired"),
        ("stranger", "self-signed|local issuer"),
    ],
)
def test_certificates_are_wrong_in_the_way_of_their_name(web, port, message):
    context = ssl.create_default_context(cafile=str(web.authority))
    with socket.create_connection(("127.0.0.1", web.ports[port])) as connection:
        if message is None:
            context.wrap_socket(connection, server_hostname="tls.test").close()
            return
        with pytest.raises(ssl.SSLCertVerificationError, match=message):
            context.wrap_socket(connection, server_hostname="tls.test")


def test_every_case_asks_for_something_that_is_there():
    sites = all_sites()
    asked = [case.asked.partition("/") for case in hostile_cases() if case.asked]
    assert len(asked) > 150
    assert not [found for found in asked if "/" + found[2] not in sites[found[0]]]
