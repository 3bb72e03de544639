"""Text without power over what shows it: one line, no control or invisible characters."""

import re
import unicodedata

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.S)
"""What a terminal takes for commands (ECMA-48): colours, cursor, window titles, hyperlinks."""
_JOINERS = "\u200c\u200d"
"""Zero-width, and part of words in Persian or Hindi and of emoji."""


def inert(text: str) -> str:
    """Return a text as one line in NFC: terminal commands, control, invisible and unpaired characters are left out."""
    if not text.isprintable():
        text = _without_power(text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def _without_power(text: str) -> str:
    return "".join(
        " " if character.isspace() or unicodedata.category(character) == "Cc" else character
        for character in _ESCAPES.sub(" ", text)
        if character in _JOINERS
        or character.isspace()
        or unicodedata.category(character) not in ("Cf", "Cs", "Co", "Cn")
    )
