"""Oracles: the same model scored alone, and a count of what was decoded and encoded."""

import json

import pytest
import torch
from evaluation.test_run import NAMES, classification_set, labelled
from towers.tiny import tiny_towers, train_a_little
from typer.testing import CliRunner

from neuclip.cli.main import app
from neuclip.evaluation.compare import compare
from neuclip.evaluation.models import evaluate_models
from neuclip.evaluation.part import read_columns
from neuclip.evaluation.score import score_set
from neuclip.foundation.errors import CheckpointError, ConfigError, DataError
from neuclip.foundation.progress import silent
from neuclip.loading.evaluation_sets import read_set
from neuclip.stages.manifest import read_manifest
from neuclip.towers import encode
from neuclip.towers.folder import load_towers, save_towers

IMAGES = 3 * len(NAMES)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    uris = []
    for name, towers in (("raw", tiny_towers()), ("trained", train_a_little(tiny_towers()))):
        save_towers(towers, base / name)
        uris.append(str(base / name))
    return uris


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    base = tmp_path_factory.mktemp("sets")
    return [
        classification_set(
            base,
            [
                part
                for n, colour in enumerate(NAMES * 3)
                for part in labelled(colour, 100 * number + n)
            ],
            name=f"wds_colours{number}_test",
        )
        for number in range(2)
    ]


@pytest.fixture
def counts(monkeypatch):
    """How many images were decoded, and encoded by any model."""
    seen = {"decoded": 0, "encoded": 0}
    decode, features = encode.decode_rgb, encode.Towers.image_features

    def count_decoded(content):
        seen["decoded"] += 1
        return decode(content)

    def count_encoded(towers, pixels):
        seen["encoded"] += len(pixels)
        return features(towers, pixels)

    monkeypatch.setattr(encode, "decode_rgb", count_decoded)
    monkeypatch.setattr(encode.Towers, "image_features", count_encoded)
    return seen


def evaluate(models, sets, root, **options):
    return evaluate_models(models, sets, root=str(root), batch_size=8, progress=silent, **options)


def test_two_models_on_two_sets_decode_each_image_once(models, sets, tmp_path, counts):
    found = evaluate(models, sets, tmp_path)
    assert counts == {"decoded": 2 * IMAGES, "encoded": 4 * IMAGES}
    for one in found:
        towers = load_towers(one.model)
        assert [row.set for row in one.rows] == ["colours0", "colours1"]
        for uri, row, key in zip(sets, one.rows, read_manifest(one.uri).parts, strict=True):
            alone = score_set(towers, read_set(uri), batch_size=8, model_sha256=row.model_sha256)
            assert row == alone.row
            kept = read_columns(str(tmp_path / "evaluate/parts" / key))
            assert {name: values.tolist() for name, values in kept.items()} == {
                name: values.tolist() for name, values in alone.columns.items()
            }
    [versus] = compare([one.uri for one in found])
    assert versus.average.is_different


def test_what_is_scored_is_not_scored_again(models, sets, tmp_path, counts):
    raw, trained = models
    first = evaluate([raw], sets[:1], tmp_path)
    evaluate([raw], sets[:1], tmp_path)
    assert counts == {"decoded": IMAGES, "encoded": IMAGES}
    evaluate([raw], sets, tmp_path)  # a set more scores that alone
    assert counts == {"decoded": 2 * IMAGES, "encoded": 2 * IMAGES}
    both = evaluate(models, sets, tmp_path)  # and so does a model more
    assert counts == {"decoded": 4 * IMAGES, "encoded": 4 * IMAGES}
    assert both[0].rows[0] == first[0].rows[0]
    assert both[1].model == trained
    evaluate(models, sets[:1], tmp_path, force=True)
    assert counts == {"decoded": 5 * IMAGES, "encoded": 6 * IMAGES}


def test_models_are_taken_in_groups_that_fit_into_memory(
    models, sets, tmp_path, counts, monkeypatch
):
    monkeypatch.setattr("neuclip.evaluation.part.MOST_AT_ONCE", 1)
    evaluate(models, sets, tmp_path)
    assert counts == {"decoded": 4 * IMAGES, "encoded": 4 * IMAGES}


def test_models_that_read_other_sizes_share_what_is_decoded(sets, counts):
    small, large = tiny_towers(), tiny_towers()
    large.preprocess["size"] = 2 * small.image_px
    suite = read_set(sets[0])
    with pytest.raises((RuntimeError, AssertionError)):  # such towers read no other size
        encode.encode_images_by([small, large], _images(suite), batch_size=8)
    large.preprocess["size"] = small.image_px
    large.preprocess["mean"] = (0.0, 0.0, 0.0)
    counts["decoded"] = 0
    one, other = encode.encode_images_by([small, large], _images(suite), batch_size=8)[0]
    assert counts["decoded"] == IMAGES
    assert not torch.equal(one, other)
    assert torch.equal(other, encode.encode_images(large, _images(suite), batch_size=8)[0])


def _images(suite):
    return [sample.parts["png"] for sample in suite.samples()]


def test_the_command(models, sets, tmp_path):
    words = ["evaluate", *models, "--on", sets[0], "--root", str(tmp_path)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("colours0") == 2
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [one["model"] for one in told["models"]] == models
    assert told["models"][1]["scores"][0]["intervals"]["acc1"][0] > 0.5


def test_what_cannot_be_evaluated_is_refused(models, sets, tmp_path):
    with pytest.raises(DataError, match=r"open_clip_config\.json"):
        evaluate([str(tmp_path)], sets, tmp_path / "lake")
    with pytest.raises(ConfigError, match="two sets of one name"):
        evaluate(models, [sets[0], sets[0]], tmp_path / "lake")
    broken = tmp_path / "broken"
    save_towers(tiny_towers(), broken)
    (broken / "open_clip_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        evaluate([str(broken)], sets, tmp_path / "lake")
