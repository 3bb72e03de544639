"""What is wrong with ready-made shards that no row tells: counted by reason, with the first names of each."""

from collections import Counter
from collections.abc import Iterable

from neuclip.foundation.text import printable

_SHOWN = 5
_NAME_CHARACTERS = 120
_MOST_REASONS = 40
_OTHERS = "further problems"


class Problems(Counter[str]):
    """Reason -> how many times; of the first names of each, a bounded number."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}

    def note(self, reason: str, name: str = "") -> None:
        """Count a problem; beyond a number of reasons, further ones are counted as one."""
        reason = printable(reason)
        if reason not in self and len(self) >= _MOST_REASONS:
            reason = _OTHERS
        self[reason] += 1
        names = self.names.setdefault(reason, [])
        if name and len(names) < _SHOWN:
            names.append(printable(name)[:_NAME_CHARACTERS])

    def named(self) -> dict[str, list[str]]:
        """Return the first names of each reason that has any, and how many more there are."""
        return {
            reason: [*names, *([f"and {more} more"] if (more := self[reason] - len(names)) else [])]
            for reason, names in self.names.items()
            if names
        }


def some(names: Iterable[str]) -> str:
    """Write a few names, and how many more there are."""
    all_names = list(names)
    more = f" and {len(all_names) - _SHOWN} more" if len(all_names) > _SHOWN else ""
    return ", ".join(printable(name)[:_NAME_CHARACTERS] for name in all_names[:_SHOWN]) + more
