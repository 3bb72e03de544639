"""Something that is slow to load and serves many parts: a model for example. Each worker loads it once."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

Thing = TypeVar("Thing")

_here = threading.local()
"""The last thing that a thread loaded: a worker holds one model, not all that it has ever seen."""


@dataclass(frozen=True)
class Loaded(Generic[Thing]):
    """Travels to workers as the way to load a thing; the first part of a worker loads it, the next ones find it.

    Each thread has its own, since not every model can be used by several at once.

    Args:
        load: loads it; can be pickled.
    """

    load: Callable[[], Thing]
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def here(self) -> Thing:
        """Return the thing of this thread."""
        token, thing = cast("tuple[str, Any]", getattr(_here, "last", ("", None)))
        if token != self._token:
            release()  # two do not fit into memory at once
            thing = self.load()
            _here.last = (self._token, thing)
        return thing


def release() -> None:
    """Let go of what this thread has loaded."""
    _here.last = ("", None)
