"""Why a row has no image: img2dataset's messages, of which there are as many as bytes, in a few words."""

import re

DUPLICATE_UID, REPEATED_ROW = "duplicate_uid", "repeated_row"
REPEATS = (DUPLICATE_UID, REPEATED_ROW)
"""Reasons of rows whose uid an earlier row has: one that the table brings, or that of the same URL and caption."""

REASONS = (
    "no_url",
    "bad_scheme",
    *REPEATS,
    "refused",
    "bad_url",
    "private_address",
    "bad_port",
    "robots_disallow",
    "robots_unreachable",
    "dns",
    "connection",
    "tls",
    "timeout",
    "truncated",
    "bad_response",
    "body_too_large",
    "redirect",
    "http_403",
    "http_404",
    "http_410",
    "http_429",
    "http_4xx",
    "http_5xx",
    "opt_out_header",
    "sha256_mismatch",
    "not_an_image",
    "too_large",
    "too_many_frames",
    "undecodable",
    "other_download",
    "other_resize",
    "missing_image",
    "missing_row",
    "unreadable_shard",
    "taken_down",
)
"""Every reason there is, in the order in which they are found: the first six before anything is fetched,
missing_image, missing_row and unreadable_shard in adopted shards only."""

NETWORK_REASONS = frozenset({"dns", "connection", "timeout", "robots_unreachable"})
"""Reasons that a network or a server that is down would give to every row."""

_DOWNLOAD_PATTERNS = (
    ("opt_out_header", r"disallowed by X-Robots-Tag"),
    ("redirect", r"HTTP Error 3\d\d|infinite loop"),
    ("http_403", r"HTTP Error 403"),
    ("http_404", r"HTTP Error 404"),
    ("http_410", r"HTTP Error 410"),
    ("http_4xx", r"HTTP Error 4\d\d"),
    ("http_5xx", r"HTTP Error 5\d\d"),
    ("timeout", r"timed out"),
    ("truncated", r"IncompleteRead"),
    (
        "dns",
        r"Name or service not known|name resolution|No address associated|nodename nor servname",
    ),
    ("tls", r"\bSSL\b|CERTIFICATE"),
    (
        "connection",
        r"Connection (refused|reset|aborted)|Remote end closed|unreachable|No route to host|Broken pipe",
    ),
    (
        "bad_url",
        r"unknown url type|no host given|control characters|nonnumeric port|codec can't|label (empty|too long)"
        r"|Invalid IPv6|does not appear to be an IPv4",
    ),
)
_RESIZE_PATTERNS = (
    ("too_large", r"CV_IO_MAX_IMAGE|area too large"),
    ("undecodable", r"Image decoding error|buf\.empty|imdecode"),
)

_CAUSES = (
    (
        frozenset({"dns"}),
        "the name server does not answer, or not so fast: set acquire.egress.dns_servers, or fewer threads",
    ),
    (NETWORK_REASONS, "the network, the name server or the image server seems to be down"),
    (
        frozenset({"http_403", "http_429", "http_4xx"}),
        "the servers refuse this client: fetch slower (acquire.egress.host_requests_per_s), or name yourself in "
        "acquire.egress.contact",
    ),
    (
        frozenset({"robots_disallow", "opt_out_header"}),
        "the hosts do not want their pictures to be fetched",
    ),
    (
        frozenset({"private_address"}),
        "the hosts have private addresses: name those that are meant in acquire.egress.allow_hosts",
    ),
    (
        frozenset({"bad_port"}),
        "the URLs name other ports than 80 and 443: name those that are meant in acquire.egress.allow_ports",
    ),
    (frozenset({"http_404", "http_410"}), "the links of this table have died"),
    (frozenset({"http_5xx"}), "the image servers are failing: try later or with fewer threads"),
    (
        frozenset({"undecodable", "not_an_image"}),
        "the URLs lead to something else than images",
    ),
    (frozenset({"sha256_mismatch"}), "the pictures have changed since the table was made"),
    (
        frozenset({"bad_url"}),
        "the table is not UTF-8: convert it (iconv -f LATIN1 -t UTF-8, for example)",
    ),
    (
        frozenset({"no_url", "bad_scheme", "bad_url"}),
        "acquire.url_column does not hold web addresses",
    ),
)
"""What lies behind reasons; of causes that explain as much, the first."""


def reason_of(status: str, message: str | None) -> str:
    """Return the reason of a row that img2dataset failed, one of REASONS."""
    is_resize = status == "failed_to_resize"
    patterns = _RESIZE_PATTERNS if is_resize else _DOWNLOAD_PATTERNS
    for reason, pattern in patterns:
        if re.search(pattern, message or "", flags=re.IGNORECASE):
            return reason
    return "other_resize" if is_resize else "other_download"


def likely_cause(dropped: dict[str, int], failed_hosts: dict[str, int] | None = None) -> str:
    """Say what probably lies behind most of the failures.

    Args:
        failed_hosts: failures of the hosts that have most.
    """
    total = sum(dropped.values())
    counts = [(sum(dropped.get(r, 0) for r in reasons), cause) for reasons, cause in _CAUSES]
    count, cause = max(counts, key=lambda found: found[0])
    causes = [cause] if 2 * count > total else []
    for host, failures in list((failed_hosts or {}).items())[:1]:
        if 2 * failures > total:
            causes.append(f"{failures} of the {total} failures are of one host, {host}")
    return "; ".join(causes) or "there is no single cause; see column `detail` of the rows"
