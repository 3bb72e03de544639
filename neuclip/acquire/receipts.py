"""What the guard wrote down of its fetches, read while they go on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came of asking for one row's picture."""

    reason: str | None
    """One of acquire.reasons.REASONS, None if the picture was handed on."""
    detail: str | None
    sha256: str | None
    """Of the bytes as they were received."""
    host: str
    """That answered last, after all redirects."""


class Receipts:
    """Reads the guard's journal as it grows; whoever finishes a partition takes its rows' receipts."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._read_bytes = 0
        self._kept: dict[str, Receipt] = {}

    def read(self) -> int:
        """Take in what is new; return how many receipts have not been taken yet."""
        if self._journal.exists():
            with self._journal.open("rb") as file:
                file.seek(self._read_bytes)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
            self._read_bytes += len(whole)
            for line in whole.splitlines():
                receipt = orjson.loads(line)
                self._kept[receipt["uid"]] = Receipt(
                    receipt["reason"], receipt["detail"], receipt["sha256"], receipt["host"]
                )
        return len(self._kept)

    def reasons(self) -> Counter[str | None]:
        """Return how many of those not taken yet have each reason."""
        return Counter(receipt.reason for receipt in self._kept.values())

    def take(self, uids: Iterable[str]) -> dict[str, Receipt]:
        """Return the receipts of rows and forget them."""
        return {uid: receipt for uid in uids if (receipt := self._kept.pop(uid, None)) is not None}
