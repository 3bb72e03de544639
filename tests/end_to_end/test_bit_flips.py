"""Oracle: what was committed. A bit that flips in a committed file is found by the stage that reads the file."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from evaluation.test_run import classification_set, labelled
from made.acquired import Pair, some_pairs
from made.demo_web import DEMO_RECIPE
from made.stages import NAMES
from query.journeys import do_stages, make_recipe
from towers.tiny import COLOURS
from training.runs import make_config

from neuclip.foundation.errors import NeuclipError
from neuclip.journey import identify, run_stage
from neuclip.recipe import load_recipe
from neuclip.stages.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PLACES = (0.03, 0.5, 0.97)

READ_BY = {
    "acquire/parts/*/rows.parquet": ("acquire", "curate"),
    "acquire/parts/*/images.tar": ("acquire", "shard"),
    "acquire/parts/*-part0/manifest.json": ("acquire", "curate"),
    "acquire/parts/*/texts.parquet": ("acquire", "curate"),
    "acquire/parts/????????????????????/manifest.json": ("acquire", "caption"),
    "acquire/KEY/partitions.parquet": ("acquire", "curate"),
    "acquire/KEY/manifest.json": ("acquire", "curate"),
    "score/parts/*/scores.parquet": ("score", "curate"),
    "score/parts/*/manifest.json": ("score", "curate"),
    "score/KEY/scored.json": ("score", "curate"),
    "score/KEY/manifest.json": ("score", "curate"),
    "curate/KEY/verdicts.parquet": ("curate", "shard"),
    "curate/KEY/kept.npy": ("curate", "caption"),
    "curate/KEY/manifest.json": ("curate", "caption"),
    "curate/KEY/funnel.json": ("curate", "publish"),
    "caption/parts/*/texts.parquet": ("caption", "index"),
    "caption/parts/*/manifest.json": ("caption", "index"),
    "caption/KEY/parts.parquet": ("caption", "index"),
    "caption/KEY/manifest.json": ("caption", "index"),
    "shard/parts/*/shard-000000.tar": ("shard", "train"),
    "shard/parts/*/selection-000000.tar": ("shard", "select"),
    "shard/parts/*/members.parquet": ("shard", "index"),
    "shard/parts/*/manifest.json": ("shard", "index"),
    "shard/KEY/members.parquet": ("shard", "publish"),
    "shard/KEY/manifest.json": ("shard", "index"),
    "index/KEY/index.duckdb": ("index", "train"),
    "index/KEY/side_files.parquet": ("index", "train"),
    "index/KEY/manifest.json": ("index", "train"),
    "index/parts/*/shard-000000.arrow": ("index", "train"),
    "index/parts/*/selection-000000.arrow": ("index", "select"),
    "index/parts/*/manifest.json": ("index", "train"),
    "train/KEY/checkpoints/step-*/open_clip_model.safetensors": ("train", "select"),
    "train/KEY/checkpoints/step-*/open_clip_config.json": ("train", "select"),
    "train/KEY/checkpoints/step-*/checkpoint.json": ("train", "select"),
    "train/KEY/metrics.jsonl": ("train", "publish"),
    "train/KEY/manifest.json": ("train", "select"),
    "select/KEY/model/open_clip_model.safetensors": ("select", "evaluate"),
    "select/KEY/model/open_clip_config.json": ("select", "evaluate"),
    "select/KEY/choice.json": ("select", "publish"),
    "select/KEY/scores.json": ("select", "publish"),
    "select/KEY/manifest.json": ("select", "evaluate"),
    "evaluate/KEY/scores.json": ("evaluate", "publish"),
    "evaluate/KEY/manifest.json": ("evaluate", "publish"),
}
"""Committed files -> the stage that made them, and one that reads them."""

NO_STAGE_READS = {
    "curate/KEY/groups/*.parquet": "for `neuclip explain`",
    "shard/KEY/pairs.parquet": "for a later run of shard",
    "index/parts/*/samples.parquet": "for `neuclip takedown`",
    "train/KEY/checkpoints/latest.json": "for a run that goes on",
    "train/KEY/checkpoints/step-*/state.safetensors": "for a run that goes on",
    "publish/KEY/*": "the end of the journey",
}


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """All stages, committed once; and a recipe that reads them but trains anew."""
    base = tmp_path_factory.mktemp("flips")
    sets = [classification_set(base, [m for n, c in enumerate(COLOURS) for m in labelled(c, n)])]
    train = make_config(epochs=1, probe=None, loader={"workers": 0}).model_dump(mode="json")
    train["objective"] = {"name": "openclip"}
    # so that it reads every side file
    train["captions"] = {"kind": "per_source", "weights": {"alt": 1.0, "rewrite": 1.0}}
    changes = {"evaluate.sets": sets, "train": train}
    changes["index.features"] = None
    recipe, fields = make_recipe(base, **changes)
    without_alt = [Pair(n, {"rewrite": [f"a drawing of {n}"]}) for n in range(120, 150)]
    do_stages(recipe, {"all": [*some_pairs(120), *without_alt]}, NAMES[1:])
    again = load_recipe(DEMO_RECIPE, {**fields, "train.lr": 0.0123})
    return recipe, again


@pytest.fixture(scope="module")
def tally():
    return Counter()


def files_of(recipe, pattern: str) -> list[Path]:
    stage = pattern.split("/", maxsplit=1)[0]
    ids = identify(recipe)
    key = ids[stage].key if stage in ids else ""
    return sorted(p for p in Path(recipe.root).glob(pattern.replace("KEY", key)) if p.is_file())


def flip(path: Path, place: float) -> bytes:
    before = path.read_bytes()
    at = int(place * (len(before) - 1))
    path.write_bytes(before[:at] + bytes([before[at] ^ 1 << at % 8]) + before[at + 1 :])
    return before


def told(recipe, stage: str) -> str:
    try:
        run_stage(recipe, stage, force=stage != "train")
    except NeuclipError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("pattern", READ_BY)
def test_every_flip_is_told_with_file_and_stage(pattern, journey, tally):
    recipe, again = journey
    maker, reader = READ_BY[pattern]
    found = files_of(recipe, pattern)
    assert found, pattern
    path = found[0]
    tally["kinds of files"] += 1
    for place in PLACES:
        tally["flips"] += 1
        before = flip(path, place)
        try:
            message = told(again if reader == "train" else recipe, reader)
        finally:
            path.write_bytes(before)
        assert str(path) in message, (place, message)
        assert f"`--only {maker} --force`" in message
        assert "\n" not in message
        tally["told with file and stage"] += 1


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "replaced"])
@pytest.mark.parametrize(
    "pattern",
    [
        "curate/KEY/verdicts.parquet",
        "acquire/parts/*/texts.parquet",
        "caption/parts/*/texts.parquet",
        "index/parts/*/selection-000000.arrow",
        "shard/parts/*/members.parquet",
        "select/KEY/model/open_clip_model.safetensors",
        "select/KEY/choice.json",
        "shard/parts/*/manifest.json",
    ],
)
def test_every_other_damage_is_told_too(damage, pattern, journey):
    recipe, _ = journey
    maker, reader = READ_BY[pattern]
    path = files_of(recipe, pattern)[0]
    before = path.read_bytes()
    path.unlink()
    content = {"empty": b"", "truncated": before[:-1], "replaced": before[::-1]}
    if damage in content:
        path.write_bytes(content[damage])
    try:
        message = told(recipe, reader)
    finally:
        path.write_bytes(before)
    assert str(path.parent) in message
    assert f"`--only {maker} --force`" in message


def results(recipe) -> dict[str, object]:
    """What the stages found, without the times at which they did."""
    read = {stage: Path(identity.uri) for stage, identity in identify(recipe).items()}
    manifests = {
        stage: json.loads((uri / "manifest.json").read_bytes()) for stage, uri in read.items()
    }
    return {
        "ledgers": {stage: manifest["ledger"] for stage, manifest in manifests.items()},
        "verdicts": (read["curate"] / "verdicts.parquet").read_bytes(),
        "captions": {
            key: (read["caption"].parent / "parts" / key / "texts.parquet").read_bytes()
            for key in read_manifest(str(read["caption"])).parts
        },
        "choice": json.loads((read["select"] / "choice.json").read_bytes()),
        "scores": json.loads((read["evaluate"] / "scores.json").read_bytes()),
        "model": (read["publish"] / "model" / "open_clip_model.safetensors").read_bytes(),
    }


def test_flips_in_files_that_no_stage_reads_change_no_result(journey, tally, tmp_path):
    """All of them at once; every stage but training is done again."""
    recipe, _ = journey
    before = results(recipe)
    backup = tmp_path / "backup"
    shutil.copytree(recipe.root, backup)
    try:
        for pattern in NO_STAGE_READS:
            found = files_of(recipe, pattern)
            assert found, pattern
            for path in found:
                if path.name != "manifest.json":
                    flip(path, 0.5)
                    tally["flips in files that no stage reads"] += 1
        for stage in ("score", "curate", "caption", "select", "evaluate", "publish"):
            run_stage(recipe, stage, force=True)
        assert results(recipe) == before
        tally["kinds of files that no stage reads"] = len(NO_STAGE_READS)
    finally:
        shutil.rmtree(recipe.root)
        shutil.copytree(backup, recipe.root)


def test_the_tally(tally, capsys):
    """Of the tests above, all of which have to run."""
    with capsys.disabled():
        print("\n" + ", ".join(f"{number} {what}" for what, number in tally.items()))
    assert tally["kinds of files"] == len(READ_BY)
    assert tally["told with file and stage"] == tally["flips"] >= 40
