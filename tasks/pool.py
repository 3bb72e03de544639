"""A pool of workers that are Prefect's: the parts of a stage as tasks, on threads, Dask or Ray."""

import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect.tasks import Task

from neuclip.foundation.config import Section
from neuclip.foundation.errors import ChildError, is_transient
from neuclip.foundation.progress import Progress
from neuclip.stages.pool import LOCAL, Call, Failure, Pool
from neuclip.stages.scale import ScaleConfig
from tasks.progress import ArtifactProgress
from tasks.runners import LostWorkersError, check_needs, needs_of_a_part, task_runner, wait_for

_IN_HAND = 4
"""Calls that are handed out for each worker: enough that none waits, and few are begun after a failure."""


def is_worth_another_try(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself, and a downloader that died or hung; what is committed is not done again."""
    del task, task_run
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and (
        is_transient(error) or isinstance(error, ChildError)
    )


@task(
    name="part",
    task_run_name="{call.name}",
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_jitter_factor=0.5,
    retry_condition_fn=is_worth_another_try,
    persist_result=False,
)
def do_call(call: Call) -> Any:  # noqa: ANN401  # what the call returns
    """Do one call on the worker that Prefect has chosen."""
    logging.getLogger("neuclip").setLevel(logging.INFO)  # Prefect adds its handlers, but no level
    return call.run(ArtifactProgress(call.name))


class PrefectPool:
    """Does calls by a Prefect task runner; its cluster begins with the first call."""

    is_here = False

    def __init__(self, scale: ScaleConfig, resources: ExitStack) -> None:
        self.workers = scale.workers
        self.shares_files = scale.address is None
        self._scale, self._resources = scale, resources
        self._runner: TaskRunner[Any] | None = None
        self._lost: Failure | None = None

    def do(self, calls: Sequence[Call], progress: Progress) -> Iterator[Any]:
        """See Pool."""
        del progress  # workers show their own
        waiting = deque(calls)
        futures: deque[PrefectFuture[Any]] = deque()
        has_failed = False
        while waiting or futures:
            while waiting and not has_failed and len(futures) < self.workers * _IN_HAND:
                futures.append(self._begin(waiting.popleft()))
            if not futures:
                return
            result = self._result(futures.popleft())
            has_failed = has_failed or isinstance(result, Failure)
            yield result

    def _begin(self, call: Call) -> PrefectFuture[Any]:
        runner = self._started()
        with needs_of_a_part(self._scale):
            return runner.submit(do_call, {"call": call})

    def _result(self, future: PrefectFuture[Any]) -> Any:  # noqa: ANN401  # what the call returned
        if self._lost is not None:  # the others would be waited for as long
            return self._lost
        try:
            wait_for(future, self._started(), self._scale)
            return future.result()
        except LostWorkersError as error:
            self._lost = Failure(error)
            return self._lost
        except Exception as error:  # noqa: BLE001  # each task runner has errors of its own for a worker that died
            return Failure(error)

    def _started(self) -> TaskRunner[Any]:
        if self._runner is None:
            self._runner = self._resources.enter_context(task_runner(self._scale))
            check_needs(self._runner, self._scale)
        return self._runner


@contextmanager
def pool_of(section: Section) -> Generator[Pool]:
    """Yield the pool that a section of a recipe asks for; a cluster that it began ends with it."""
    scale = getattr(section, "scale", None)
    if not isinstance(scale, ScaleConfig) or scale.runner == "local":
        yield LOCAL
        return
    with ExitStack() as resources:
        yield PrefectPool(scale, resources)
