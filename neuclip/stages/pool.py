"""Where the parts of a stage are done: one after the other in this process, or wherever a pool of workers is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from neuclip.foundation.progress import Progress


@dataclass(frozen=True)
class Call:
    """Work for one worker; all of it can be pickled.

    Args:
        name: what people know it by: lowercase letters, digits and dashes.
        run: does it, and reports how far it is.
    """

    name: str
    run: Callable[[Progress], Any]


@dataclass(frozen=True)
class Failure:
    """What a call raised, or what its pool says of a worker that died."""

    error: Exception


class Pool(Protocol):
    """Does calls, several at once."""

    workers: int
    """How many at once."""
    is_here: bool
    """Calls are done by the thread that asks for them."""
    shares_files: bool
    """All workers see the local files of this process."""

    def do(self, calls: Sequence[Call], progress: Progress) -> Iterator[Any]:
        """Do calls; yield what each returned, or its Failure, in their order.

        After a failure no further call is begun, so the last ones may yield nothing.

        Args:
            progress: takes what a call reports, if it is done in this thread.
        """
        ...


class LocalPool:
    """Does one call after the other in this thread; what a call raises is raised."""

    workers = 1
    is_here = True
    shares_files = True

    def do(self, calls: Sequence[Call], progress: Progress) -> Iterator[Any]:
        """See Pool."""
        for call in calls:
            yield call.run(progress)


LOCAL = LocalPool()
