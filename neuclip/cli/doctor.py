"""Checks of the machine: what has to be so for a run, and what is wrong if it is not."""

import importlib.util
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from neuclip.foundation.errors import NeuclipError
from neuclip.storage.files import exists, list_folders
from neuclip.storage.roots import require_folder
from neuclip.storage.uris import is_local, local_part

_PACKAGES = (
    "neuclip",
    "prefect",
    "fastapi",
    "img2dataset",
    "webdataset",
    "torch",
    "open_clip_torch",
    "duckdb",
    "pyarrow",
    "s3fs",
)
_LEAST_FREE_BYTES = 5 << 30
_API_TIMEOUT_S = 5


@dataclass(frozen=True)
class Finding:
    """One check: `ok`, `warning` or `error`, and a line that says what was found and what to do."""

    check: str
    state: str
    says: str


def examine(root: str | None) -> list[Finding]:
    """Do all checks; `root` is the storage that will be used, if it is known."""
    checks: list[Callable[[], Finding]] = [
        _versions,
        _backport,
        _fastapi,
        _torch,
        _torchvision,
        _prefect_api,
        lambda: _storage(root),
        lambda: _disk(root),
    ]
    return [check() for check in checks]


def _versions() -> Finding:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            return Finding("packages", "error", f"{package} is not installed; run `make setup`")
    return Finding(
        "packages", "ok", ", ".join(f"{name} {number}" for name, number in found.items())
    )


def _backport() -> Finding:
    try:
        version("dataclasses")
    except PackageNotFoundError:
        return Finding("dataclasses", "ok", "the standard library's own")
    return Finding(
        "dataclasses",
        "error",
        "the Python 3.6 backport is installed and stops Prefect's server: `pip uninstall dataclasses`",
    )


def _fastapi() -> Finding:
    major, minor = (int(part) for part in version("fastapi").split(".")[:2])
    if (major, minor) >= (0, 151):
        return Finding(
            "fastapi",
            "error",
            f"{version('fastapi')} breaks prefect {version('prefect')}; install fastapi<0.151",
        )
    return Finding("fastapi", "ok", version("fastapi"))


def _torch() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(
            "GPU", "warning", f"torch {torch.__version__} sees none; training runs on the CPU"
        )
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    return Finding("GPU", "ok", f"torch {torch.__version__}: {', '.join(names)} ({bf16})")


def _torchvision() -> Finding:
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        return Finding(
            "torchvision", "error", f"does not fit torch: {error}; install both with `make setup`"
        )
    return Finding("torchvision", "ok", str(torchvision.__version__))


def _prefect_api() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding(
            "Prefect API",
            "warning",
            "PREFECT_API_URL is not set; `neuclip run` needs none, deployments do",
        )
    if not url.startswith(("http://", "https://")):
        return Finding("Prefect API", "error", f"PREFECT_API_URL {url!r} is not an http address")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_API_TIMEOUT_S) as answer:  # noqa: S310
            healthy = json.loads(answer.read()) is True
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(
            "Prefect API",
            "error",
            f"{url} does not answer: {error}; start it with `prefect server start`",
        )
    return Finding("Prefect API", "ok" if healthy else "error", url)


def _storage(root: str | None) -> Finding:
    if importlib.util.find_spec("s3fs") is None:
        return Finding("S3", "error", "s3fs is not installed; run `make setup`")
    if root is None or is_local(root):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return Finding(
            "S3",
            "ok",
            f"not asked for (endpoint {endpoint or 'of AWS'}); give --root s3://bucket to try it",
        )
    bucket = "/".join(root.split("/")[:3])
    try:
        if not exists(bucket):
            return Finding(
                "S3",
                "error",
                f"{bucket} is not there or not yours; make the bucket, or check the AWS_* keys",
            )
        folders = list_folders(root)
    except NeuclipError as error:
        return Finding("S3", "error", str(error))
    return Finding("S3", "ok", f"{root} answers, {len(folders)} folders")


def _disk(root: str | None) -> Finding:
    path = local_part(root).absolute() if root is not None and is_local(root) else Path.cwd()
    try:
        require_folder(str(path), "root")
    except NeuclipError as error:
        return Finding("disk", "error", str(error))
    while not path.exists():
        path = path.parent
    if not os.access(path, os.W_OK):
        return Finding(
            "disk",
            "error",
            f"{path} cannot be written to; check owner, mode and mount, or choose another root",
        )
    free = shutil.disk_usage(path).free
    state = "ok" if free >= _LEAST_FREE_BYTES else "warning"
    return Finding("disk", state, f"{free / (1 << 30):.1f} GiB free at {path}")
