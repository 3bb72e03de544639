"""Why a URL was not fetched: one of acquire's reasons, and the details."""

TRANSIENT_REASONS = frozenset(
    {
        "dns",
        "connection",
        "timeout",
        "truncated",
        "http_429",
        "http_5xx",
        "robots_unreachable",
        "other_download",
    }
)
"""Reasons that may pass by themselves: tried again, at once by the guard and later by a repair."""


class Refusal(Exception):  # noqa: N818  # it is no error of ours
    """Ends the fetching of one URL."""

    def __init__(self, reason: str, detail: str, *, wait_s: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.wait_s = wait_s
        """How long the host asked to be left alone, None if it did not ask."""
