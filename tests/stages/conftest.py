"""Fixtures of the stages' tests: a root in a folder and one in a bucket."""

import subprocess

import pytest
from servers.s3 import s3_bucket, s3_environment, s3_url

from neuclip.stages import heart, lease, lease_places, lock_file, owner

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@pytest.fixture(params=["folder", pytest.param("bucket", marks=[pytest.mark.s3, pytest.mark.slow])])
def root(request, tmp_path) -> str:
    if request.param == "folder":
        return str(tmp_path / "root")
    return request.getfixturevalue("s3_bucket")


FRESH = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child"]
RENAMED = [*FRESH, "sh", "-c", 'hostname another && exec "$@"', "sh"]


@pytest.fixture(
    params=["same host name", pytest.param("another host name", marks=pytest.mark.slow)]
)
def container(request) -> list[str]:
    """The words before a program that give it process ids of its own, as a container has."""
    words = FRESH if request.param == "same host name" else RENAMED
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("process namespaces cannot be made here")
    return words


@pytest.fixture
def hasty(monkeypatch):
    """Seconds instead of minutes."""
    monkeypatch.setattr(heart, "BEAT_S", 0.1)
    monkeypatch.setattr(owner, "STALE_S", 2.0)
    monkeypatch.setattr(lease, "_POLL_S", 0.1)
    monkeypatch.setattr(lock_file, "_SETTLE_S", 0.1)
    monkeypatch.setattr(lease_places, "_SETTLE_S", 0.1)
