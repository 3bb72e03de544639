"""A model folder of tiny towers, and partitions with everything that may lack in a pair."""

import pytest
from made.acquired import Pair
from servers.s3 import s3_bucket, s3_environment, s3_url
from towers.tiny import COLOURS, picture, tiny_towers

from neuclip.towers.folder import save_towers

__all__ = ["s3_bucket", "s3_environment", "s3_url"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model folder as a select stage leaves it."""
    folder = tmp_path_factory.mktemp("scoring") / "model"
    save_towers(tiny_towers(), folder)
    return folder


@pytest.fixture
def partitions():
    """Two partitions: whole pairs, and one of each kind that has no value."""
    names = list(COLOURS)
    whole = [
        Pair(n, {"alt": [f"a photo of {name}", "other"]}, content=picture(name, seed=n))
        for n, name in enumerate(names)
    ]
    lacking = [
        Pair(20, {"alt": ["never came"]}, failed="http_404"),
        Pair(21, {"alt": ["a broken file"]}, content=b"\xff\xd8\xff not a picture"),
        Pair(22, {}, content=picture("red", seed=22), unusable={"alt": 1}),
        Pair(23, {"rewrite": ["no alt text"]}, content=picture("blue", seed=23)),
    ]
    unicode = [
        Pair(30, {"alt": ["雪\u202e \U0001f600\U0001f3fd e\u0301\x00"]}, content=picture("gray", seed=30)),
        Pair(31, {"alt": ["zwei\nZeilen, ein\u2028Ball"]}, content=picture("green", seed=31)),
    ]  # fmt: skip
    return [whole[:3] + lacking[:2], whole[3:] + lacking[2:] + unicode]
