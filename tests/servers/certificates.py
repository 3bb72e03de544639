"""Certificates for the servers of the tests: one that is right, and the ways in which others are wrong."""

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Contexts of servers; `authority` is the file that a client must trust to accept the good one."""

    authority: Path
    good: ssl.SSLContext
    of_another_host: ssl.SSLContext
    expired: ssl.SSLContext
    of_a_stranger: ssl.SSLContext


def make_certificates(folder: Path, name: str) -> Certificates:
    """Make them for one host name."""
    authority, stranger = trustme.CA(), trustme.CA()
    path = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    return Certificates(
        authority=path,
        good=_context(authority.issue_cert(name)),
        of_another_host=_context(authority.issue_cert("elsewhere.example")),
        expired=_context(authority.issue_cert(name, not_after=long_ago)),
        of_a_stranger=_context(stranger.issue_cert(name)),
    )


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
