"""Oracle: open_clip itself, an image and a caption at a time."""

import io
import json

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from made.acquired import Pair, commit_acquired
from PIL import Image
from safetensors.torch import load_file, save_file
from towers.tiny import picture

from neuclip.curate.scores import ClipScore, Embedding
from neuclip.foundation.errors import CheckpointError, NumericsError
from neuclip.foundation.progress import silent
from neuclip.scoring.run import run_scores
from neuclip.stages.manifest import read_manifest


def score(root, config, partitions, key="acquired"):
    acquire_uri = commit_acquired(root, partitions, key)
    return run_scores([config], root=str(root), acquire_uri=acquire_uri, progress=silent)[0]


def rows(found):
    return [pq.read_table(f"{folder}/scores.parquet").to_pylist() for folder in found.folders]


@pytest.fixture(scope="module")
def features(model):
    """open_clip's own features of an image file and a caption."""
    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    network.eval()

    def of(pair):
        pixels = transform(Image.open(io.BytesIO(pair.content)).convert("RGB"))[None]
        with torch.no_grad():
            image = network.encode_image(pixels, normalize=True)[0]
            text = network.encode_text(tokenizer([pair.captions["alt"][0]]), normalize=True)[0]
        return image.numpy(), text.numpy()

    return of


def has_both(pair):
    alt = pair.captions.get("alt", [""])[0].strip()
    return bool(alt) and not pair.failed and b"not a picture" not in (pair.content or b"")


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_a_clip_score_is_open_clips_cosine(tmp_path, model, partitions, features, batch_size):
    config = ClipScore(kind="clip_score", model=str(model), name="l14", batch_size=batch_size)
    found = score(tmp_path, config, partitions)
    assert (found.name, found.columns) == ("l14", ("l14",))
    for pairs, table in zip(partitions, rows(found), strict=True):
        assert [row["uid"] for row in table] == [pair.uid for pair in pairs]
        for pair, row in zip(pairs, table, strict=True):
            if not has_both(pair):
                assert row["l14"] is None
                continue
            image, text = features(pair)
            assert row["l14"] == pytest.approx(float(image @ text), abs=1e-5)


def test_rows_without_a_value_are_counted_by_reason(tmp_path, model, partitions):
    found = score(tmp_path, ClipScore(kind="clip_score", model=str(model)), partitions)
    first, second = (read_manifest(folder).ledger for folder in found.folders)
    assert (first.entered, first.out) == (5, 3)
    assert first.dropped == {"not_acquired": 1, "undecodable_image": 1}
    assert second.dropped == {"no_caption": 2}
    assert found.record["without_value"] == {
        "not_acquired": 1,
        "undecodable_image": 1,
        "no_caption": 2,
    }
    assert found.record["image_px"] == 32
    assert found.record["precision"] == ("bf16" if torch.cuda.is_available() else "fp32")
    assert len(found.record["model"]) == 64


def test_features_lie_beside_the_table_row_for_row(tmp_path, model, partitions, features):
    found = score(tmp_path, Embedding(kind="embedding", model=str(model)), partitions)
    assert found.columns == ()
    for pairs, folder in zip(partitions, found.folders, strict=True):
        images, texts = (np.load(f"{folder}/{side}_features.npy") for side in ("image", "text"))
        assert images.shape == texts.shape == (len(pairs), 32)
        assert images.dtype == np.float16
        assert [row["uid"] for row in pq.read_table(f"{folder}/scores.parquet").to_pylist()] == [
            pair.uid for pair in pairs
        ]
        for pair, image, text in zip(pairs, images, texts, strict=True):
            if has_both(pair):
                expected = features(pair)
                np.testing.assert_allclose(image, expected[0], atol=1e-3)
                np.testing.assert_allclose(text, expected[1], atol=1e-3)
            else:
                assert bool(image.any()) == (pair.number in (22, 23))
                assert bool(text.any()) == (pair.number in (20, 21))


def changed(model, folder, change):
    folder.mkdir()
    weights = load_file(model / "open_clip_model.safetensors")
    change(weights)
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_config.json").write_bytes((model / "open_clip_config.json").read_bytes())
    return folder


def test_a_model_with_broken_weights_is_refused_by_the_name_of_the_weight(
    tmp_path, model, partitions
):
    broken = changed(model, tmp_path / "nan", lambda w: w["visual.proj"].fill_(float("nan")))
    with pytest.raises(NumericsError, match=r"visual.proj .* is not finite"):
        score(tmp_path, ClipScore(kind="clip_score", model=str(broken)), partitions)
    assert not list(tmp_path.glob("score/parts/*/manifest.json"))


def test_a_score_that_is_not_finite_is_null_and_counted(tmp_path, model):
    """A weight so large that one word alone overflows."""
    word = int(open_clip.get_tokenizer(f"local-dir:{model}")(["overflow"])[0, 1])
    broken = changed(
        model, tmp_path / "large", lambda w: w["token_embedding.weight"][word].fill_(3e38)
    )
    pairs = [
        Pair(n, {"alt": [text]}, content=picture("red"))
        for n, text in enumerate(["fine", "an overflow here", "fine again"])
    ]
    for config in (
        ClipScore(kind="clip_score", model=str(broken)),
        Embedding(kind="embedding", model=str(broken)),
    ):
        found = score(tmp_path, config, [pairs])
        ledger = read_manifest(found.folders[0]).ledger
        assert (ledger.out, ledger.dropped) == (2, {"not_finite": 1})
    values = [row["clip_score"] for row in rows(score(tmp_path, ClipScore(
        kind="clip_score", model=str(broken)), [pairs]))[0]]  # fmt: skip
    assert [value is None for value in values] == [False, True, False]
    assert not np.load(f"{found.folders[0]}/text_features.npy")[1].any()
    assert np.load(f"{found.folders[0]}/image_features.npy")[1].any()


def test_the_same_model_elsewhere_is_the_same_score_and_another_is_not(tmp_path, model, partitions):
    first = score(tmp_path, ClipScore(kind="clip_score", model=str(model)), partitions)
    copy = changed(model, tmp_path / "copy", lambda w: None)
    again = score(tmp_path, ClipScore(kind="clip_score", model=str(copy)), partitions)
    assert again == first
    other = changed(model, tmp_path / "other", lambda w: w["logit_scale"].add_(1.0))
    config = json.loads((other / "open_clip_config.json").read_text())
    assert config["model_cfg"]["embed_dim"] == 32
    third = score(tmp_path, ClipScore(kind="clip_score", model=str(other)), partitions)
    assert not set(third.folders) & set(first.folders)


def test_a_folder_without_a_model_is_refused(tmp_path, partitions):
    with pytest.raises(CheckpointError, match=r"has no open_clip_config.json"):
        score(tmp_path, ClipScore(kind="clip_score", model=str(tmp_path / "none")), partitions)
