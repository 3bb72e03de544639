"""Text that others wrote: where a line ends, and what can be written down again."""


def split_lines(text: str) -> list[str]:
    """Split a text at newlines and nowhere else; a carriage return before a newline belongs to it.

    `str.splitlines` splits at eight more characters (U+2028, form feed, NEL, ...), which captions and names hold.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def printable(text: str) -> str:
    """Return a text that can be encoded: halves of characters and bytes that are not UTF-8 become a sign."""
    return text.encode("utf-8", "replace").decode("utf-8")
