"""Progress of a stage, told to whoever watches: the terminal, a Prefect artifact, a test."""

from typing import Protocol


class Progress(Protocol):
    """Receives how far a stage is."""

    def __call__(self, stage: str, *, done: int, total: int, note: str = "") -> None:
        """Take a report: `done` of `total` units, and one line for people."""
        ...


def silent(stage: str, *, done: int, total: int, note: str = "") -> None:
    """Ignore progress."""
    del stage, done, total, note
