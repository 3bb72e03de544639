"""The `acquire.egress` section of a recipe: how the web is asked."""

import ipaddress
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from neuclip.foundation.config import RESERVED, Section, unkeyed

PRODUCT_TOKEN = "neuclip"  # noqa: S105  # a name, no secret
"""What hosts call us by, in robots.txt and X-Robots-Tag."""


class EgressConfig(Section):
    """What the guard allows, and how gently it asks."""

    contact: Annotated[str | None, RESERVED] = unkeyed(
        None, description="e-mail address or web page that hosts find in the User-Agent"
    )
    allow_hosts: Annotated[list[str], RESERVED] = Field(
        default_factory=list[str],
        description="`host` (on all its ports) or `host:port` that may have a private address and any port: "
        "an intranet, a test server",
    )
    allow_ports: list[Annotated[int, Field(ge=1, le=65_535)]] = Field(
        default=[80, 443], description="ports that hosts are asked on"
    )
    dns_servers: Annotated[list[str], RESERVED] = unkeyed(
        [],
        description="`ip` or `ip:port` of name servers, asked in turn; empty takes the system's",
    )
    timeout_s: float = Field(
        default=10, gt=0, le=600, description="seconds without a byte after which a try fails"
    )
    deadline_s: float = Field(
        default=60,
        gt=0,
        le=3600,
        description="seconds that one try may take with all its redirects, and with the reading of the picture",
    )
    retries: int = Field(
        default=1, ge=0, le=10, description="further tries of what failed for the moment"
    )
    max_redirects: int = Field(default=5, ge=0, le=20, description="redirects that are followed")
    max_body_bytes: int = Field(
        default=50_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="bytes of a body, decompressed too",
    )
    max_image_pixels: int = Field(
        default=50_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="pixels above which an image is refused before it is decoded",
    )
    max_frames: int = Field(
        default=1_000,
        ge=1,
        description="frames above which an animation is refused; of others the first is taken",
    )
    robots: bool = Field(default=True, description="ask robots.txt of every host, and obey")
    header_opt_outs: bool = Field(
        default=True, description="obey noai, noimageai, noindex and noimageindex of X-Robots-Tag"
    )
    host_concurrency: int = unkeyed(
        2, ge=1, le=256, description="requests at a time to one host, of one worker"
    )
    host_requests_per_s: float = unkeyed(
        10.0, ge=0, description="requests a second to one host, of one worker; 0 is no limit"
    )

    @field_validator("contact")
    @classmethod
    def _check_contact(cls, contact: str | None) -> str | None:
        if contact is not None and not (contact.isascii() and contact.isprintable()):
            raise ValueError(
                f"contact must be printable ASCII, since it is sent in a header, found {contact!r}"
            )
        return contact

    @field_validator("dns_servers")
    @classmethod
    def _check_servers(cls, servers: list[str]) -> list[str]:
        for server in servers:
            name_server(server)
        return servers

    @model_validator(mode="after")
    def _check_deadline(self) -> Self:
        if self.deadline_s < self.timeout_s:
            raise ValueError(
                f"deadline_s={self.deadline_s:g} is less than timeout_s={self.timeout_s:g}; raise it"
            )
        return self


def name_server(text: str) -> tuple[str, int]:
    """Return address and port of a name server written as `ip`, `ip:port` or `[ip]:port`.

    Raises: ValueError: if it is none of these.
    """
    host, _, port = (
        text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "53")
    )
    try:
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError as error:
        raise ValueError(f"expected `ip` or `ip:port` of a name server, found {text!r}") from error
