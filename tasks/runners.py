"""The Prefect task runners that a recipe may name, and what each is told that a part needs."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from math import ceil
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from neuclip.foundation.errors import ConfigError
from neuclip.stages.scale import ScaleConfig

_HERE = "127.0.0.1"
_RAY_STORE_BYTES = 100_000_000
"""Identities of parts and places of files are all that passes between tasks."""

_RAY_HERE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray listen on loopback alone, here too
    "RAY_AUTH_MODE": "token",
}


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
        workers: dict[str, Any] = getattr(runner, "client").scheduler_info(n_workers=-1)["workers"]  # noqa: B009  # of DaskTaskRunner alone
        most = max((worker["resources"].get("GPU", 0) for worker in workers.values()), default=0)
    else:
        import ray

        most = max((node["Resources"].get("GPU", 0) for node in ray.nodes()), default=0)
    if most < scale.gpus:
        raise ConfigError(
            f"scale.gpus={scale.gpus:g} for each part, and no worker of {scale.address or 'this machine'} has more "
            f"than {most:g}; start Dask's workers with `--resources GPU=1`, set scale.address to a cluster with GPUs, "
            "or have fewer scale.workers or scale.gpus=0"
        )


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _not_installed(name: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"scale.runner={name} needs the extra {name}, which is not installed ({error}); "
        f"install neuclip[{name}] here and on all workers, or set scale.runner=threads"
    )
