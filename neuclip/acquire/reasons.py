"""Why a row has no image: img2dataset's messages, of which there are as many as bytes, in a few words."""

import re

REASONS = (
    "no_url",
    "bad_scheme",
    "duplicate_uid",
    "bad_url",
    "dns",
    "connection",
    "tls",
    "timeout",
    "truncated",
    "redirect",
    "http_403",
    "http_404",
    "http_410",
    "http_4xx",
    "http_5xx",
    "opt_out_header",
    "not_an_image",
    "undecodable",
    "too_large",
    "other_download",
    "other_resize",
    "missing_image",
)
"""Every reason there is. The first three are found before anything is fetched, the last in adopted shards."""

NETWORK_REASONS = frozenset({"dns", "connection", "timeout"})
"""Reasons that a network or a server that is down would give to every row."""

TRANSIENT_REASONS = NETWORK_REASONS | {
    "truncated",
    "http_429",
    "http_5xx",
    "robots_unreachable",
    "other_download",
}
"""Reasons that may not hold the next time: `neuclip repair` fetches such rows again, and no others."""

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
    (NETWORK_REASONS, "the network, the name server or the image server seems to be down"),
    (
        frozenset({"http_403", "http_4xx"}),
        "the servers refuse this client: fetch slower, or name yourself in acquire.user_agent",
    ),
    (frozenset({"http_404", "http_410"}), "the links of this table have died"),
    (frozenset({"http_5xx"}), "the image servers are failing: try later or with fewer threads"),
    (frozenset({"undecodable"}), "the URLs lead to something else than images"),
    (
        frozenset({"no_url", "bad_scheme", "bad_url"}),
        "acquire.url_column does not hold web addresses",
    ),
)


def reason_of(status: str, message: str | None) -> str:
    """Return the reason of a row that img2dataset failed, one of REASONS."""
    is_resize = status == "failed_to_resize"
    patterns = _RESIZE_PATTERNS if is_resize else _DOWNLOAD_PATTERNS
    for reason, pattern in patterns:
        if re.search(pattern, message or "", flags=re.IGNORECASE):
            return reason
    return "other_resize" if is_resize else "other_download"


def likely_cause(dropped: dict[str, int]) -> str:
    """Say what probably lies behind most of the failures."""
    counts = [(sum(dropped.get(r, 0) for r in reasons), cause) for reasons, cause in _CAUSES]
    count, cause = max(counts)
    is_most = 2 * count > sum(dropped.values())
    return cause if is_most else "there is no single cause; see column `detail` of the rows"
