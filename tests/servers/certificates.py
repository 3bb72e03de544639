"""Certificates for the servers of the tests: one that is right, and the ways in which others are wrong."""

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_YEAR = datetime.timedelta(days=365)


@dataclass(frozen=True)
class Certificates:
    """Contexts of servers; `authority` is the file that a client must trust to accept the good one."""

    authority: Path
    good: ssl.SSLContext
    of_another_host: ssl.SSLContext
    expired: ssl.SSLContext
    of_a_stranger: ssl.SSLContext


def make_certificates(folder: Path, host: str) -> Certificates:
    """Make them for one host name; the files go to a folder."""
    authority, stranger = _Authority("authority"), _Authority("stranger")
    path = folder / "authority.pem"
    path.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    now = datetime.datetime.now(datetime.UTC)
    return Certificates(
        authority=path,
        good=authority.context(folder / "good.pem", host, now),
        of_another_host=authority.context(folder / "other.pem", "elsewhere.example", now),
        expired=authority.context(folder / "expired.pem", host, now - 2 * _YEAR),
        of_a_stranger=stranger.context(folder / "stranger.pem", host, now),
    )


class _Authority:
    """Signs certificates that are good from a year before to a year after a day."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"{name} of the tests")
        started = _unsigned(self._name, self._key, datetime.datetime.now(datetime.UTC))
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self.certificate = (
            started.issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def context(self, path: Path, host: str, day: datetime.datetime) -> ssl.SSLContext:
        """Return the context of a server with a certificate for a host."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _unsigned(_named(host), key, day)
            .issuer_name(self._name)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _unsigned(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, day: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(day - _YEAR)
        .not_valid_after(day + _YEAR)
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
