"""Slices: the rows of a file that become one partition, the same as before as far as the rows are the same."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from neuclip.acquired.listing import KnownSlices
from neuclip.table.rows import Row

_MOST_CHARACTERS = 1 << 26
"""Of the rows of one partition, which are in memory together."""

KeyOf = Callable[[list[Row]], str]


def slices_of(
    rows: Iterator[Row], known: KnownSlices, key_of: KeyOf, *, partition_rows: int
) -> Iterator[list[Row]]:
    """Yield consecutive runs of rows: each is a known slice, or up to `partition_rows` rows that are in none.

    Rows with so much text that it is much to hold in memory are cut earlier.
    A known slice is found by the uid of its first row, wherever it stands now, and taken if its rows have kept their
    key. So what stands before it may grow, shrink or change without the slice being cut anew.
    """
    window = _Window(rows)
    new: list[Row] = []
    characters = 0
    while (row := window.first()) is not None:
        if (whole := _known_here(window, row, known, key_of)) is not None:
            if new:
                yield new
            yield whole
            new, characters = [], 0
            continue
        new += window.take(1)
        characters += row.characters
        if len(new) == partition_rows or characters >= _MOST_CHARACTERS:
            yield new
            new, characters = [], 0
    if new:
        yield new


def _known_here(window: "_Window", row: Row, known: KnownSlices, key_of: KeyOf) -> list[Row] | None:
    """Take the known slice that begins here, if there is one."""
    for known_slice in known.get(row.uid, ()):
        found = window.ahead(known_slice.rows)
        if len(found) == known_slice.rows and key_of(found) == known_slice.key:
            return window.take(known_slice.rows)
    return None


class _Window:
    """Rows of which some have been looked at ahead."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._seen: deque[Row] = deque()

    def first(self) -> Row | None:
        """Return the next row, None at the end; it is not taken."""
        found = self.ahead(1)
        return found[0] if found else None

    def ahead(self, count: int) -> list[Row]:
        """Return the next rows, fewer at the end; they are not taken."""
        self._seen.extend(islice(self._rows, max(0, count - len(self._seen))))
        return list(islice(self._seen, count))

    def take(self, count: int) -> list[Row]:
        """Return the next rows and go on behind them."""
        return [self._seen.popleft() for _ in range(count)]
