"""The ledger of a stage: what came in, what went out, and why the rest did not."""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from neuclip.foundation.errors import IntegrityError


class Ledger(BaseModel):
    """Counts of samples (or of what the stage handles); in = out + all that was dropped, with its reason."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    entered: int = Field(alias="in", ge=0)
    out: int = Field(ge=0)
    dropped: dict[str, int] = Field(default_factory=dict)

    def check(self, where: str) -> None:
        """Refuse a ledger that lost or invented something.

        Raises: IntegrityError: with the difference.
        """
        missing = self.entered - self.out - sum(self.dropped.values())
        if missing:
            raise IntegrityError(
                f"the ledger of {where} does not balance: {self.entered} in, {self.out} out, "
                f"{sum(self.dropped.values())} dropped, so {missing} have no outcome; "
                "the stage was not committed, please report this with the stage's log"
            )

    def describe(self) -> str:
        """Say the ledger in one line, most frequent reason first."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        return f"{self.entered} in, {self.out} out" + (f" ({reasons})" if reasons else "")


def make_ledger(entered: int, out: int, dropped: dict[str, int]) -> Ledger:
    """Build a ledger with its reasons sorted by count, those with none left out."""
    ordered = sorted(
        ((r, n) for r, n in dropped.items() if n), key=lambda item: (-item[1], item[0])
    )
    return Ledger.model_validate({"in": entered, "out": out, "dropped": dict(ordered)})


def add_ledgers(ledgers: Iterable[Ledger]) -> Ledger:
    """Add up the ledgers of partitions."""
    entered = out = 0
    dropped: dict[str, int] = {}
    for ledger in ledgers:
        entered += ledger.entered
        out += ledger.out
        for reason, count in ledger.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return make_ledger(entered, out, dropped)
