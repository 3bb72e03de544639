"""The Prefect task runners that a recipe may name."""

import os
import secrets
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from neuclip.acquire.config import ScaleConfig
from neuclip.foundation.errors import ConfigError

_HERE = "127.0.0.1"
_RAY_STORE_BYTES = 100_000_000
"""Keys of partitions are all that passes between tasks."""

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
    cluster = {
        "n_workers": scale.workers,
        "threads_per_worker": 1,  # a worker has one downloader, which has processes of its own
        "host": _HERE,
        "dashboard_address": None,
        "security": True,  # certificates of its own: other users of this machine cannot give it work
    }
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
        "num_cpus": scale.workers,
        "include_dashboard": False,
        "object_store_memory": _RAY_STORE_BYTES,
        "log_to_driver": False,
    }
    return RayTaskRunner(init_kwargs=cluster)


def _not_installed(name: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"acquire.scale.runner={name} needs the extra {name}, which is not installed ({error}); "
        f"install neuclip[{name}] here and on all workers, or set acquire.scale.runner=threads"
    )
