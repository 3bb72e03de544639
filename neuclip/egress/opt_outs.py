"""X-Robots-Tag: what a host's headers say against using a picture."""

from collections.abc import Iterable

from neuclip.egress.config import PRODUCT_TOKEN
from neuclip.egress.refusal import Refusal

_DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})


def check(values: Iterable[str]) -> None:
    """Look through the values of all X-Robots-Tag headers; one for another named agent does not count.

    Raises: Refusal: `opt_out_header`.
    """
    for value in values:
        agent, colon, rest = value.partition(":")
        is_agent = colon and "," not in agent and agent.strip().lower() != "unavailable_after"
        if is_agent and agent.strip().lower() not in (PRODUCT_TOKEN, "*"):
            continue
        found = {word.strip().lower() for word in (rest if is_agent else value).split(",")}
        if found & _DIRECTIVES:
            raise Refusal("opt_out_header", f"X-Robots-Tag: {value}")
