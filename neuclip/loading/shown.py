"""How many texts of each source were shown, of one view."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from neuclip.loading.policies import Caption


@dataclass
class Shown:
    """Counts of texts.

    Args:
        by_source: source -> texts of it; samples without any text count under an empty name.
        stand_ins: how many of them were shown because what the policy wanted is of no use.
    """

    by_source: Counter[str] = field(default_factory=Counter[str])
    stand_ins: int = 0

    @classmethod
    def of(cls, captions: Iterable[Caption]) -> "Shown":
        """Count the texts of a batch."""
        captions = list(captions)
        return cls(
            Counter(caption.source for caption in captions),
            sum(caption.stands_in for caption in captions),
        )

    def __add__(self, other: "Shown") -> "Shown":
        """Return the counts of both together."""
        return Shown(self.by_source + other.by_source, self.stand_ins + other.stand_ins)

    @property
    def count(self) -> int:
        """All texts."""
        return self.by_source.total()
