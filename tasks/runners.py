"""The Prefect task runners that a recipe may name, and what each is told that a part needs."""

import os
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from math import ceil
from typing import Any

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from neuclip.foundation.errors import ConfigError
from neuclip.stages.scale import ScaleConfig

_HERE = "127.0.0.1"
_RESTART_S = 600
"""After which Dask gives up a worker that died and is begun again; on a busy machine this takes long."""
_WITHOUT_WORKERS_S = 300.0
"""After which nothing is hoped for from a Dask cluster that has lost all of its workers."""
_POLL_S = 0.1
_LOOK_EVERY_S = 5.0
_RAY_STORE_BYTES = 100_000_000
"""Identities of parts and places of files are all that passes between tasks."""

_RAY_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray listen on loopback alone, here too
    "RAY_AUTH_MODE": "token",
}


class LostWorkersError(Exception):
    """A cluster has no worker any more."""


def task_runner(scale: ScaleConfig) -> TaskRunner[Any]:
    """Return the task runner of a recipe: of a cluster that is there, or of one here that ends with the flow.

    Raises: ConfigError: if what it needs is not installed.
    """
    match scale.runner:
        case "dask":
            return _dask(scale)
        case "ray":
            return _ray(scale)
        case _:
            return ThreadPoolTaskRunner(max_workers=scale.workers)


def _dask(scale: ScaleConfig) -> TaskRunner[Any]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise _not_installed("dask", error) from error
    if scale.address is not None:
        return DaskTaskRunner(address=scale.address)
    cluster: dict[str, Any] = {
        "n_workers": scale.workers,
        "threads_per_worker": 1,  # a part has a worker of its own, and may start processes
        "host": _HERE,
        "dashboard_address": None,
        "security": True,  # certificates of its own: other users of this machine cannot give it work
    }
    if scale.gpus:
        cluster["resources"] = {"GPU": _gpus_here() / scale.workers}  # they all see the same ones
    import dask

    patience = {"distributed.deploy.lost-worker-timeout": _RESTART_S}
    dask.config.set(patience)  # pyright: ignore[reportPrivateImportUsage]  # it is dask's own name
    return DaskTaskRunner(cluster_kwargs=cluster)


def _ray(scale: ScaleConfig) -> TaskRunner[Any]:
    try:
        from prefect_ray.task_runners import RayTaskRunner
    except ImportError as error:
        raise _not_installed("ray", error) from error
    if scale.address is not None:
        return RayTaskRunner(address=scale.address)
    for name, value in _RAY_HERE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    cluster = {
        "num_cpus": ceil(scale.workers * scale.cpus),
        "include_dashboard": False,
        "object_store_memory": _RAY_STORE_BYTES,
        "log_to_driver": False,
    }
    return RayTaskRunner(init_kwargs=cluster)


@contextmanager
def needs_of_a_part(scale: ScaleConfig) -> Generator[None]:
    """Let the tasks that are submitted meanwhile ask for what a part needs."""
    match scale.runner:
        case "dask":
            import dask

            gpus = {"resources": {"GPU": scale.gpus}} if scale.gpus else {}
            with dask.annotate(**gpus):  # pyright: ignore[reportPrivateImportUsage]  # it is dask's own name
                yield
        case "ray":
            from prefect_ray.context import remote_options

            with remote_options(num_cpus=scale.cpus, num_gpus=scale.gpus):
                yield
        case _:
            yield


def check_needs(runner: TaskRunner[Any], scale: ScaleConfig) -> None:
    """Raise if nobody has the GPUs that a part needs: it would wait for ever.

    Args:
        runner: it was started.
    Raises: ConfigError: with what there is.
    """
    if not scale.gpus:
        return
    most = 0.0
    if scale.runner == "dask":
        workers = _workers(runner).values()
        most = max((worker["resources"].get("GPU", 0) for worker in workers), default=0)
    else:
        import ray

        most = max((node["Resources"].get("GPU", 0) for node in ray.nodes()), default=0)
    if most < scale.gpus:
        raise ConfigError(
            f"scale.gpus={scale.gpus:g} for each part, and no worker of {scale.address or 'this machine'} has more "
            f"than {most:g}; start Dask's workers with `--resources GPU=1`, set scale.address to a cluster with GPUs, "
            "or have fewer scale.workers or scale.gpus=0"
        )


def wait_for(future: PrefectFuture[Any], runner: TaskRunner[Any], scale: ScaleConfig) -> None:
    """Wait until a task has ended, or can never end.

    Raises: LostWorkersError: if all workers of a Dask cluster are gone, and none has come for minutes.
    """
    if scale.runner != "dask":
        future.wait()
        return
    wrapped: Any = getattr(future, "wrapped_future")  # noqa: B009  # Dask's own, of PrefectDaskFuture alone
    seen_at = looked_at = time.monotonic()
    while not wrapped.done():
        time.sleep(_POLL_S)
        if time.monotonic() - looked_at < _LOOK_EVERY_S:
            continue
        looked_at = time.monotonic()
        if _workers(runner):
            seen_at = looked_at
        elif looked_at - seen_at > _WITHOUT_WORKERS_S:
            raise LostWorkersError(
                f"the Dask cluster {scale.address or 'of this machine'} has lost all of its workers, and none has come "
                f"for {_WITHOUT_WORKERS_S:.0f} s; look at their logs and their memory"
            )


def _workers(runner: TaskRunner[Any]) -> dict[str, Any]:
    """Return what Dask's scheduler knows of each worker."""
    client: Any = getattr(runner, "client")  # noqa: B009  # of DaskTaskRunner alone
    return client.scheduler_info(n_workers=-1)["workers"]


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _not_installed(name: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"scale.runner={name} needs the extra {name}, which is not installed ({error}); "
        f"install neuclip[{name}] here and on all workers, or set scale.runner=threads"
    )
