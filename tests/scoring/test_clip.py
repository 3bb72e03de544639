"""Oracle: open_clip itself, an image and a caption at a time."""

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from made.acquired import Pair, commit_acquired
from PIL import Image
from safetensors.torch import load_file, save_file
from towers.tiny import picture

from neuclip.curate.scores import ClipScore, Embedding, ModelScore
from neuclip.foundation.errors import CheckpointError, NumericsError
from neuclip.foundation.progress import silent
from neuclip.scoring.pool_scores import run_scores
from neuclip.scoring.similarity import ImageTextSimilarity
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

    def of(pair, source="alt"):
        pixels = transform(Image.open(io.BytesIO(pair.content)).convert("RGB"))[None]
        with torch.no_grad():
            image = network.encode_image(pixels, normalize=True)[0]
            text = network.encode_text(tokenizer([pair.captions[source][0]]), normalize=True)[0]
        return image.numpy(), text.numpy()

    return of


def has_image(pair):
    return not pair.failed and b"not a picture" not in (pair.content or b"")


def has_both(pair, source="alt"):
    return source in pair.captions and has_image(pair)


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


def test_a_source_is_scored_by_its_first_text(tmp_path, model, partitions, features):
    """A pair may have texts of that source and no alt text."""
    for number, pair in enumerate(partitions[1]):
        if number % 2:
            pair.captions["rewrite"] = [f"a drawing, number {number}", "another"]
    config = ClipScore(kind="clip_score", model=str(model), source="rewrite")
    found = score(tmp_path, config, partitions)
    values = [row["clip_score"] for table in rows(found) for row in table]
    pairs = [pair for part in partitions for pair in part]
    scored = [pair for pair in pairs if has_both(pair, "rewrite")]
    assert len(scored) == 4
    assert {pair.number for pair in scored} >= {23}
    for pair, value in zip(pairs, values, strict=True):
        if pair not in scored:
            assert value is None
            continue
        image, text = features(pair, "rewrite")
        assert value == pytest.approx(float(image @ text), abs=1e-5)
    assert found.record["without_value"] == {
        "not_acquired": 1,
        "undecodable_image": 1,
        "no_caption": len(pairs) - 6,
    }


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


def test_features_of_images_lie_beside_the_table_row_for_row(tmp_path, model, partitions, features):
    """A pair counts by its image alone, whatever its texts."""
    found = score(tmp_path, Embedding(kind="embedding", model=str(model)), partitions)
    assert found.columns == ()
    for pairs, folder in zip(partitions, found.folders, strict=True):
        assert sorted(path.name for path in Path(folder).iterdir()) == [
            "image_features.npy",
            "manifest.json",
            "scores.parquet",
        ]
        images = np.load(f"{folder}/image_features.npy")
        assert images.shape == (len(pairs), 32)
        assert images.dtype == np.float16
        assert [row["uid"] for row in pq.read_table(f"{folder}/scores.parquet").to_pylist()] == [
            pair.uid for pair in pairs
        ]
        for pair, image in zip(pairs, images, strict=True):
            if has_image(pair):
                expected, _ = features(Pair(0, {"alt": ["any"]}, content=pair.content))
                np.testing.assert_allclose(image, expected, atol=1e-3)
            else:
                assert not image.any()
    first, second = (read_manifest(folder).ledger for folder in found.folders)
    assert (first.out, first.dropped) == (3, {"not_acquired": 1, "undecodable_image": 1})
    assert (second.out, second.dropped) == (len(partitions[1]), {})


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
    found = score(tmp_path, ClipScore(kind="clip_score", model=str(broken)), [pairs])
    ledger = read_manifest(found.folders[0]).ledger
    assert (ledger.out, ledger.dropped) == (2, {"not_finite": 1})
    assert [row["clip_score"] is None for row in rows(found)[0]] == [False, True, False]
    found = score(tmp_path, Embedding(kind="embedding", model=str(broken)), [pairs])
    ledger = read_manifest(found.folders[0]).ledger
    assert (ledger.out, ledger.dropped) == (3, {})
    assert np.load(f"{found.folders[0]}/image_features.npy").any(axis=1).all()


def test_an_image_whose_features_are_not_finite_is_counted_and_zero(tmp_path, model):
    """A weight so large that what one picture has much of overflows, and what another has little of does not."""
    pairs = [
        Pair(n, {"alt": ["fine"]}, content=picture(colour))
        for n, colour in enumerate(["gray", "red", "gray"])
    ]
    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    network.eval()
    network.visual.proj = None
    with torch.no_grad():
        gray, red = (
            network.encode_image(transform(Image.open(io.BytesIO(pair.content)))[None])[0].abs()
            for pair in pairs[:2]
        )
    place = int((red - gray).argmax())
    largest = torch.finfo(torch.float32).max / float((red[place] + gray[place]) / 2)
    assert np.isfinite(np.float32(largest))
    broken = changed(model, tmp_path / "large", lambda w: w["visual.proj"][place].fill_(largest))
    for config in (
        ClipScore(kind="clip_score", model=str(broken)),
        Embedding(kind="embedding", model=str(broken)),
    ):
        found = score(tmp_path, config, [pairs])
        ledger = read_manifest(found.folders[0]).ledger
        assert (ledger.out, ledger.dropped) == (2, {"not_finite": 1})
    features = np.load(f"{found.folders[0]}/image_features.npy")
    assert np.isfinite(features).all()
    assert not features[1].any()


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


def test_what_models_write_is_compared_by_open_clips_cosine(model, partitions, features):
    pairs = [pair for pairs in partitions for pair in pairs if has_both(pair)]
    files = [pair.content for pair in pairs]
    files.insert(1, b"not a picture")
    texts = [pair.captions["alt"][0] for pair in pairs]
    texts.insert(1, "any text")
    compared = ImageTextSimilarity(ModelScore(model=str(model), batch_size=4))
    found = compared.cosines(files, texts)
    assert found.pop(1) is None
    expected = [float(image @ text) for image, text in map(features, pairs)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(compared.model) == 64
