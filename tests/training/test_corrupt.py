"""Oracle: how many broken images were put in."""

import pytest
from made.acquired import Pair, png, some_pairs
from made.packed import pack
from training.runs import make_config, train

from neuclip.foundation.errors import IntegrityError
from neuclip.index.reader import read_samples
from neuclip.shards.config import ShardConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def broken(number):
    """The header is there, the pixels are not; each another one, or curate would keep one of them."""
    return Pair(
        number, {"alt": [f"broken {number}"]}, content=png(number, (24, 24))[: number - 600]
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("corrupt")
    shard = ShardConfig(samples_per_shard=30, selection_share=0.1)
    return pack(root, [[*some_pairs(150), *map(broken, range(700, 708))]], shard=shard)


def settings(**loader):
    return make_config(epochs=2, objective={"name": "openclip"}, probe=None, loader=loader)


def test_corrupt_images_beyond_the_limit_stop_the_run(packed, tmp_path):
    with pytest.raises(
        IntegrityError,
        match=r"of \d+ samples do not decode, more than train.loader.max_corrupt_share",
    ):
        train(tmp_path, packed, settings(workers=1, max_corrupt_share=0.01))


def test_corrupt_images_within_the_limit_are_counted_and_named(packed, tmp_path):
    folder, manifest = train(tmp_path, packed, settings(workers=1, max_corrupt_share=0.2))
    count = read_samples(packed.index).count
    corrupt = manifest.summary["corrupt"]
    assert 4 <= len(corrupt) <= 8  # the selection split may have got some
    assert manifest.ledger.dropped["corrupt"] == len(corrupt)
    assert manifest.ledger.out == count - len(corrupt)
    log = (folder / "train.log").read_text()
    assert all(f"sample {sample_id} (" in log for sample_id in corrupt)
