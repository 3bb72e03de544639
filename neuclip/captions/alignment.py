"""Whether the lines of a file still stand beside the captions that they were written for."""

import math
import re
from collections import deque
from collections.abc import Set as AbstractSet

from neuclip.foundation.errors import DataError

FARTHEST = 4
"""Rows that a shift may have and be found."""
_FALSE_ALARMS = 1e-6
"""Most chance that files whose lines are no nearer to their own captions than to others are refused."""
_NEARER = 0.8
"""Share of the lines of a shifted run that have more words of another row's caption, among those that tell."""
_GAIN, _LOSS = math.log(2 * _NEARER), -math.log(2 * (1 - _NEARER))
# A character of Chinese, Japanese or Korean stands for a word.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|\\w+")

Words = AbstractSet[str]


def words_of(text: str) -> Words:
    """Return the words of a text, for `Alignment`."""
    return set(_WORD.findall(text.casefold()))


class Alignment:
    """Reads captions and lines row by row, and finds a run of lines that belong to the captions of other rows.

    Definition: a line is nearer to one caption than to another if it shares more of its words with it (Dice's
    coefficient). For each shift d of up to FARTHEST rows either way, a run of rows gains log(2 q) for a line that is
    nearer to the caption of row i + d than to that of its own row i, and loses -log(2 (1 - q)) for one that is not;
    ties say nothing. This is Page's CUSUM test of "in q of the rows" against "in half of them". A run that begins at
    row i is shifted if it gains more than log(2 FARTHEST i (i + 1) / _FALSE_ALARMS). By Ville's inequality, lines that
    are as often nearer to another caption as to their own, independently row by row, are refused with a chance of at
    most _FALSE_ALARMS, however long the file is; lines that are mostly nearer to their own, far more rarely.

    What it cannot find: a run of fewer than about 50 rows, or of 100 in the millions; a shift by more than FARTHEST
    rows; lines that share no words with their captions, such as translations; and rows with equal captions, where a
    shift does no harm.

    Args:
        lines: the file of the lines, for messages.
        table: the file of the captions.
    """

    def __init__(self, lines: str, table: str) -> None:
        self._lines, self._table = lines, table
        self._captions: deque[Words | None] = deque([None] * FARTHEST, maxlen=2 * FARTHEST + 1)
        self._waiting: deque[Words] = deque()
        self._row = 0
        self._runs = {d: _Run() for d in range(-FARTHEST, FARTHEST + 1) if d}
        self._nearer_own = self._nearer_other = 0

    def add(self, caption: Words, line: Words) -> None:
        """Take the next row.

        Raises: DataError: naming the first row of a shifted run.
        """
        self._waiting.append(line)
        self._push(caption)

    def finish(self) -> float | None:
        """Take the end; return the share of comparisons in which a line is nearer to its own caption, None without any.

        About 0.5 means that nothing tells whether the file is in order.

        Raises: DataError: as `add`.
        """
        for _ in range(min(FARTHEST, len(self._waiting))):
            self._push(None)
        told = self._nearer_own + self._nearer_other
        return self._nearer_own / told if told else None

    def _push(self, caption: Words | None) -> None:
        self._captions.append(caption)
        if len(self._captions) == 2 * FARTHEST + 1:
            self._judge(self._waiting.popleft())

    def _judge(self, line: Words) -> None:
        self._row += 1
        captions = self._captions
        own = _overlap(line, captions[FARTHEST])
        for d, run in self._runs.items():
            other = captions[FARTHEST + d]
            if other is None:
                continue
            overlap = _overlap(line, other)
            if overlap > own:
                self._nearer_other += 1
                if run.gain(self._row):
                    raise self._shifted(run.first, d)
            elif overlap < own:
                self._nearer_own += 1
                run.lose()

    def _shifted(self, row: int, d: int) -> DataError:
        rows = f"{abs(d)} row{'s' * (abs(d) > 1)} {'further down' if d > 0 else 'further up'}"
        return DataError(
            f"{self._lines} is shifted against {self._table}: from line {row} on, each line fits the caption {rows}, "
            f"not its own (found at line {self._row}); a line is missing or too many about there: get both files of "
            "one release, or put that line right"
        )


class _Run:
    """The run of rows that speaks most for one shift."""

    def __init__(self) -> None:
        self.first = 0
        self._evidence = 0.0

    def gain(self, row: int) -> bool:
        """Take a row that speaks for the shift; tell whether the run is beyond doubt."""
        if not self._evidence:
            self.first = row
        self._evidence += _GAIN
        return self._evidence > math.log(
            2 * FARTHEST * self.first * (self.first + 1) / _FALSE_ALARMS
        )

    def lose(self) -> None:
        """Take a row that speaks against it."""
        self._evidence = max(0.0, self._evidence - _LOSS)


def _overlap(line: Words, caption: Words | None) -> float:
    together = len(line) + len(caption or ())
    return 2 * len(line & caption) / together if caption and together else 0.0
