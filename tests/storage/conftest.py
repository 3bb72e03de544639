"""Places to store: a folder and a bucket, with the same expectations."""

import pytest
from servers.s3 import s3_bucket, s3_environment, s3_url

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@pytest.fixture(autouse=True)
def cache_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path) -> str:
    """An empty root that nothing was written to."""
    if request.param == "s3":
        return request.getfixturevalue("s3_bucket") + "/some/prefix"
    return str(tmp_path / "some" / "prefix")
