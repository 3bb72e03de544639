"""A bucket for the tests of remote shards."""

import pytest
from servers.s3 import s3_bucket, s3_environment, s3_url

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@pytest.fixture(autouse=True)
def cache_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
