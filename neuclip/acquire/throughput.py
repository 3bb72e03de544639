"""How fast a download goes, in a line for people: rate, share of successes, time left, top reasons."""

import time
from collections import Counter, deque

_OVER_S = 60.0
_TOP = 3


class Throughput:
    """Remembers the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def say(self, good: int, dropped: Counter[str], left: int) -> str:
        """Return what to tell of the rows fetched so far in this run.

        Args:
            good: rows with a picture.
            dropped: rows without one, by reason.
            left: rows that are still to be fetched.
        """
        fetched = good + dropped.total()
        if not fetched:
            return ""
        rate = self._rate(fetched)
        words: list[str] = []
        if rate > 0:
            words.append(f"{rate:.0f} rows/s")
            if left:
                words.append(f"{_duration(left / rate)} left")
        words.append(f"{good / fetched:.0%} fetched")
        words += [f"{count} {reason}" for reason, count in dropped.most_common(_TOP)]
        return ", ".join(words)

    def _rate(self, fetched: int) -> float:
        """Return rows a second over the last minute, 0 before anything can be said."""
        now = time.monotonic()
        self._seen.append((now, fetched))
        while now - self._seen[0][0] > _OVER_S:
            self._seen.popleft()
        began, before = self._seen[0]
        return (fetched - before) / (now - began) if now - began >= 1 else 0.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
