"""Something that is slow to load and serves many parts: a model for example. Each worker loads it once."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

Thing = TypeVar("Thing")

_here = threading.local()
"""The last thing that a thread loaded into each slot: a worker holds one model, not all that it has ever seen."""


@dataclass(frozen=True)
class Loaded(Generic[Thing]):
    """Travels to workers as the way to load a thing; the first part of a worker loads it, the next ones find it.

    Each thread has its own, since not every model can be used by several at once.

    Args:
        load: loads it; can be pickled.
        slot: things of other slots are held beside it.
    """

    load: Callable[[], Thing]
    slot: str = "model"
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def here(self) -> Thing:
        """Return the thing of this thread."""
        slots = _slots()
        token, thing = slots.get(self.slot, ("", None))
        if token != self._token:
            slots.pop(self.slot, None)
            del thing  # two do not fit into memory at once
            thing = self.load()
            slots[self.slot] = (self._token, thing)
        return thing


def release() -> None:
    """Let go of what this thread has loaded."""
    _slots().clear()


def _slots() -> dict[str, tuple[str, Any]]:
    if not hasattr(_here, "slots"):
        _here.slots = {}
    return cast("dict[str, tuple[str, Any]]", _here.slots)
