"""Oracle: hand-made URIs."""

from pathlib import Path

import pytest

from neuclip.storage.uris import is_local, join, local_part, name_of, parent_of


@pytest.mark.parametrize(
    ("uri", "local"),
    [("a/b", True), ("/a/b", True), ("file:///a/b", True), ("s3://b/k", False), ("gs://b", False)],
)
def test_is_local(uri, local):
    assert is_local(uri) is local


def test_parts():
    assert join("s3://b/", "/x/", "y") == "s3://b/x/y"
    assert join("rel", "x") == "rel/x"
    assert join("rel/") == "rel"
    assert name_of("s3://b/x/y/") == "y"
    assert parent_of("s3://b/x/y/") == "s3://b/x"
    assert local_part("file:///a/b") == Path("/a/b")
