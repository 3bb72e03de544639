"""The stage text_encoder and its parts. Oracle: the encoder called by hand on the texts of the caption stage."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made.acquired import some_pairs
from made.encoded import encode_texts, index_features, settings
from made.packed import Packed, gather, pack
from made.pools import PicklingPool
from made.text_encoders import edit, encoder, llama

from neuclip.captions.files import text_parts
from neuclip.captions.text_features import FEATURES, ROWS, feature_parts, texts_to_encode
from neuclip.foundation.errors import ConfigError, DataError, IntegrityError
from neuclip.index.side_files import feature_records
from neuclip.shards.config import ShardConfig
from neuclip.stages.manifest import read_manifest
from neuclip.text_encoder.encoder import describe_encoder
from neuclip.text_encoder.estimate import estimate_features
from neuclip.text_encoder.folder import require_settings

SHARD = ShardConfig(samples_per_shard=15, selection_share=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("llama"))


def two_partitions():
    pairs = some_pairs(60)
    return [pairs[:35], pairs[35:]]


@pytest.fixture
def captions(tmp_path):
    return gather(tmp_path, two_partitions())[2]


def check_features(uri, caption_uri, folder, **fields):
    """Every usable text has one row with its feature, in the order of the texts."""
    made = encoder(folder, **fields)
    expected = {
        Path(part).name: texts_to_encode(part)[0]
        for parts in text_parts(caption_uri).values()
        for part in parts
    }
    rows = feature_parts(uri)
    assert {row["captions"] for row in rows} == set(expected)
    for row in rows:
        texts = expected[row["captions"]]
        table = pq.read_table(Path(row["uri"]) / ROWS).to_pylist()
        assert [(one["uid"], one["k"]) for one in table] == [(one.uid, one.k) for one in texts]
        features, _ = made.encode([one.text for one in texts])
        np.testing.assert_array_equal(np.load(Path(row["uri"]) / FEATURES), features)


def test_every_text_is_encoded_once_in_order(tmp_path, captions, folder):
    uri = encode_texts(tmp_path, captions, settings(folder))
    check_features(uri, captions, folder)
    manifest = read_manifest(uri)
    assert manifest.ledger.out == sum(manifest.summary["sources"].values()) > 60
    assert (
        manifest.summary["encoder"] == describe_encoder(str(folder), settings(folder)).model_dump()
    )


def test_what_is_there_is_not_made_again_and_a_pool_makes_the_same(tmp_path, captions, folder):
    one = encode_texts(tmp_path, captions, settings(folder, sources=["alt"]), key="one")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "text_encoder").rglob("*.npy")}
    both = encode_texts(tmp_path, captions, settings(folder), key="both", pool=PicklingPool(2))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert set(read_manifest(one).parts) < set(read_manifest(both).parts)
    check_features(both, captions, folder)


@pytest.mark.slow
def test_another_encoder_or_setting_makes_other_parts(tmp_path, captions, folder):
    parts = [
        set(read_manifest(encode_texts(tmp_path, captions, config, key=key)).parts)
        for key, config in (
            ("a", settings(folder)),
            ("b", settings(folder, pooling="last")),
            ("c", settings(folder, max_tokens=64)),
            ("d", settings(llama(tmp_path / "other", seed=4))),
        )
    ]
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_too_many_long_texts_end_it_with_one_of_them(tmp_path, captions, folder):
    with pytest.raises(
        DataError, match=r"longer than text_encoder.max_tokens 6, at most \d+ may be cut.*begins '"
    ):
        encode_texts(tmp_path, captions, settings(folder, max_tokens=6))
    uri = encode_texts(
        tmp_path, captions, settings(folder, max_tokens=6, max_truncated=1), key="all"
    )
    summary = read_manifest(uri).summary
    assert 0 < summary["truncated"] <= sum(summary["sources"].values())


def test_a_source_that_is_not_there_is_named(tmp_path, captions, folder):
    with pytest.raises(
        ConfigError, match=r"caption source 'rewrites', which no pair .* Did you mean 'rewrite'"
    ):
        encode_texts(tmp_path, captions, settings(folder, sources=["rewrites"]))


def test_the_estimate_counts_what_is_missing(tmp_path, captions, folder):
    config = settings(folder, sources=["alt", "rewrite"], tflops=1.0, price_per_hour=2.0)
    before = estimate_features(config, root=str(tmp_path), caption_uri=captions)
    sizes = {
        source: sum(len(texts_to_encode(p)[0]) for p in parts)
        for source, parts in text_parts(captions).items()
    }
    assert {source: cost["texts"] for source, cost in before.items()} == sizes
    assert all(cost["tokens"] > cost["texts"] for cost in before.values())
    assert set(before["alt"]) == {"texts", "tokens", "gigabytes", "petaflop", "hours", "money"}
    encode_texts(tmp_path, captions, settings(folder, sources=["alt"]))
    after = estimate_features(config, root=str(tmp_path), caption_uri=captions)
    assert after["alt"]["texts"] == 0
    assert after["rewrite"] == before["rewrite"]


@pytest.mark.slow
def test_side_files_of_appended_shards_alone_are_made(tmp_path, folder):
    pairs = some_pairs(60)
    first = pack(tmp_path, [pairs[:35]], shard=SHARD, key="first")
    uri = encode_texts(tmp_path, first.caption, settings(folder), key="first")
    index_features(tmp_path, first, uri, key="first")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "index" / "parts").rglob("*.npy")}
    both = pack(tmp_path, [pairs[:35], pairs[35:]], shard=SHARD, key="both")
    uri = encode_texts(tmp_path, both.caption, settings(folder), key="both")
    index = index_features(tmp_path, both, uri, key="both")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in made.items())
    listed = {one for of in feature_records(index).values() for one, _ in of.values()}
    assert {str(path) for path in made} < listed


@pytest.mark.parametrize(
    "damage",
    [
        "swapped",
        "missing row",
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("short", "fp32")),
    ],
)
def test_a_part_that_is_not_what_was_committed_is_refused_by_the_index(tmp_path, folder, damage):
    packed: Packed = pack(tmp_path, two_partitions(), shard=SHARD)
    uri = encode_texts(tmp_path, packed.caption, settings(folder))
    first, other = (Path(row["uri"]) for row in feature_parts(uri)[:2])
    features = np.load(first / FEATURES)
    if damage == "swapped":
        (first / FEATURES).write_bytes((other / FEATURES).read_bytes())
    elif damage == "short":
        np.save(first / FEATURES, features[:-1])
    elif damage == "fp32":
        np.save(first / FEATURES, features.astype(np.float32))
    else:
        pq.write_table(pq.read_table(first / ROWS).slice(1), first / ROWS)
    with pytest.raises(IntegrityError, match=first.name):
        index_features(tmp_path, packed, uri)


def no_config(folder):
    (folder / "config.json").unlink()


def no_padding(folder):
    edit(folder, "tokenizer_config.json", pad_token=None)


def remote_code(folder):
    edit(folder, "config.json", auto_map={"AutoModel": "modeling.Own"})


def kernels(folder):
    edit(folder, "config.json", quantization_config={"bits": 4})


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def no_width(folder):
    edit(folder, "config.json", hidden_size=None)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_config, r"has no config.json"),
        (no_padding, r"has no pad_token.*set it to"),
        (remote_code, r"auto_map.*no such program is run"),
        (kernels, r"quantization_config.*not quantized"),
        (pickled, r"pytorch_model.bin is a pickle"),
        (no_tokenizer, r"has no tokenizer.json"),
        (no_width, r"names no hidden_size"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_before_it_is_loaded(tmp_path, spoil, says):
    folder = llama(tmp_path / "model")
    spoil(folder)
    with pytest.raises(ConfigError, match=says) as refused:
        require_settings(str(folder), settings(folder))
    assert "\n" not in str(refused.value)


def test_a_name_of_a_hub_is_refused_as_no_folder():
    with pytest.raises(ConfigError, match=r"is no folder with files.*hub is not looked up"):
        require_settings("meta-llama/Llama-3.2-1B", settings(Path("x")))


def test_more_tokens_than_positions_are_refused(folder):
    with pytest.raises(ConfigError, match="max_tokens 512 is beyond the 256 positions"):
        require_settings(str(folder), settings(folder, max_tokens=512))


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path):
    folder = llama(tmp_path / "model")
    edit(folder, "config.json", num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"lack layers.2.* and \d+ others"):
        encoder(folder)
