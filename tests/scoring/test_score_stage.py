"""The score stage in the journey. Oracles: pairs made by hand, and the parts that an earlier run committed."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from query.journeys import do_stages, make_pairs, make_recipe

from neuclip.foundation.errors import ConfigError, IntegrityError
from neuclip.journey import identify, plan, run_journey, run_stage
from neuclip.stages.manifest import part_uri, read_manifest

RULES = [{"kind": "caption_words", "min": 2}, {"kind": "duplicate_images"}]


def curate(*rules, **fields):
    return {"rules": [*RULES, *rules], "decontaminate": None, **fields}


def parts_of(recipe) -> dict[str, str]:
    """Return key -> when it was made, of all parts at the root."""
    folders = Path(recipe.root, "score/parts").glob("*/manifest.json")
    return {path.parent.name: read_manifest(str(path.parent)).started_at for path in folders}


def test_it_is_planned_between_acquire_and_curate_and_lists_its_parts(tmp_path):
    recipe, _ = make_recipe(tmp_path, score={"scores": [{"kind": "phash"}, {"kind": "language"}]})
    assert [item.stage for item in plan(recipe)][:3] == ["acquire", "score", "curate"]
    pairs = make_pairs()
    do_stages(recipe, pairs, ("score", "curate"))
    uri = identify(recipe)["score"].uri
    manifest = read_manifest(uri)
    assert set(manifest.parts) == set(parts_of(recipe))
    told = json.loads(Path(uri, "scored.json").read_text())
    acquired = read_manifest(identify(recipe)["acquire"].uri)
    assert told["partitions"] == acquired.parts
    tables = {
        score["name"]: [
            row
            for key in score["parts"]
            for row in pq.read_table(f"{part_uri(uri, key)}/scores.parquet").to_pylist()
        ]
        for score in told["scores"]
    }
    uids = [pair.uid for group in pairs.values() for pair in group]
    assert {name: [row["uid"] for row in rows] for name, rows in tables.items()} == {
        "phash": uids,
        "language": uids,
    }


def test_its_ledger_counts_values_of_every_score(tmp_path):
    recipe, _ = make_recipe(tmp_path, score={"scores": [{"kind": "phash"}, {"kind": "language"}]})
    pairs = make_pairs()
    do_stages(recipe, pairs, ("score",))
    ledger = read_manifest(identify(recipe)["score"].uri).ledger
    rows = sum(map(len, pairs.values()))
    assert ledger.entered == 2 * rows
    assert ledger.dropped == {"not_acquired": 1, "undecodable_image": 1}
    assert ledger.out == 2 * rows - 2


def test_without_scores_there_is_nothing_to_do(tmp_path):
    recipe, _ = make_recipe(tmp_path, score={}, curate=curate())
    do_stages(recipe, make_pairs(), ("score", "curate"))
    manifest = read_manifest(identify(recipe)["score"].uri)
    assert (manifest.parts, manifest.ledger.entered) == ([], 0)


def test_another_rule_scores_nothing_again(tmp_path):
    """Also one that needs a score nobody listed: only that one is made."""
    first, _ = make_recipe(tmp_path, curate=curate())
    do_stages(first, make_pairs(), ("score", "curate"))
    before = parts_of(first)
    other, _ = make_recipe(tmp_path, curate=curate({"kind": "caption_characters", "min": 9}))
    assert [i.state for i in plan(other)][:3] == ["done", "done", "missing"]
    near, _ = make_recipe(tmp_path, curate=curate({"kind": "near_duplicate_images"}))
    run_stage(near, "score")
    run_stage(near, "curate")
    after = parts_of(near)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 2  # phash of two partitions


def test_forced_it_scores_all_again(tmp_path):
    recipe, _ = make_recipe(tmp_path)
    do_stages(recipe, make_pairs(), ("score",))
    before = parts_of(recipe)
    assert run_stage(recipe, "score").state == "cached"
    run_stage(recipe, "score", force=True)
    after = parts_of(recipe)
    assert after.keys() == before.keys()
    assert all(before[key] < after[key] for key in before)


def test_a_score_that_a_rule_asks_for_and_that_is_not_made_is_told_at_once(tmp_path):
    rule = {"kind": "image_cluster", "score": "b32", "target": str(tmp_path / "wds_none")}
    recipe, _ = make_recipe(tmp_path, curate=curate(rule))
    Path(tmp_path, "wds_none").mkdir()
    Path(tmp_path, "wds_none", "classnames.txt").write_text("a")
    with pytest.raises(ConfigError, match=r"image_cluster asks for score 'b32'.*are: language"):
        run_journey(recipe, stages=["score"])
    assert not Path(recipe.root, "score").exists()


def test_scores_of_other_partitions_are_refused(tmp_path):
    """Oracle: a listing of one partition less, vouched for as if it had been committed so."""
    from made.committed import vouch_for

    recipe, _ = make_recipe(tmp_path)
    do_stages(recipe, make_pairs(), ("score",))
    folder = Path(identify(recipe)["score"].uri)
    told = json.loads((folder / "scored.json").read_text())
    told["partitions"].pop()
    (folder / "scored.json").write_text(json.dumps(told))
    vouch_for(folder / "scored.json", folder)
    with pytest.raises(
        IntegrityError, match=r"partitions that .* has scored.*--only score --force"
    ):
        run_stage(recipe, "curate")


def test_a_part_that_lost_a_file_is_told_and_made_again(tmp_path):
    recipe, _ = make_recipe(tmp_path)
    do_stages(recipe, make_pairs(), ("score",))
    uri = identify(recipe)["score"].uri
    lost = Path(part_uri(uri, read_manifest(uri).parts[0]), "scores.parquet")
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(IntegrityError, match=r"scores.parquet is missing.*--only score --force"):
        run_stage(recipe, "curate")
    run_stage(recipe, "score", force=True)
    assert lost.read_bytes() == content
    run_stage(recipe, "curate")
