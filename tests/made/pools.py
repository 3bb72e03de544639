"""A pool of threads that are handed what has been pickled, as workers elsewhere are."""

import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from neuclip.foundation.progress import Progress, silent
from neuclip.stages.pool import Call, Failure


class PicklingPool:
    """Does calls in threads; `done` has the names of those that were begun, in the order of their end."""

    is_here = False

    def __init__(self, workers: int = 3, *, shares_files: bool = True) -> None:
        self.workers, self.shares_files = workers, shares_files
        self.done: list[str] = []

    def do(self, calls: Sequence[Call], progress: Progress) -> Iterator[Any]:
        del progress
        with ThreadPoolExecutor(self.workers) as threads:
            yield from threads.map(self._do, [pickle.dumps(call) for call in calls])

    def _do(self, pickled: bytes) -> Any:
        call = pickle.loads(pickled)
        try:
            return call.run(silent)
        except Exception as error:  # noqa: BLE001  # as a pool elsewhere does
            return Failure(error)
        finally:
            self.done.append(call.name)
