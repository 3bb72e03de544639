"""Oracles: models whose true difference is planted, and the tests that statsmodels and textbooks have."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation.test_run import NAMES, classification_set, labelled
from made.committed import commit_by_hand
from towers.tiny import tiny_towers, train_a_little
from typer.testing import CliRunner

from neuclip.cli.main import app
from neuclip.evaluation.bootstrap import resampled
from neuclip.evaluation.compare import compare, holm, p_value
from neuclip.evaluation.comparison import cells_of, write_comparison
from neuclip.evaluation.config import EvaluateConfig
from neuclip.evaluation.kinds.choice import Choice
from neuclip.evaluation.kinds.classification import Classification
from neuclip.evaluation.run import run_evaluate
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import silent
from neuclip.stages.workspace import StageIdentity, commit_stage
from neuclip.storage.files import sha256_of
from neuclip.towers.files import WEIGHTS_FILE
from neuclip.towers.folder import save_towers

IMAGES = 400


def called_different(metric, gain, draws, kind, column):
    """How often two models of 60 % are told apart, the second of which is better by `gain` in truth."""
    random, found = np.random.default_rng(1), 0
    for number in range(draws):
        easy = (
            random.random(IMAGES) < 0.5
        )  # both are right on these: models agree more than by chance
        first, second = (
            easy | (random.random(IMAGES) < share) for share in (0.2, 0.2 + gain / 0.5)
        )
        models = [column(random, right) for right in (first, second)]
        version = f"{number + 1:x}"
        drawn = [resampled(kind, model, suite_version=version)[metric] for model in models]
        found += p_value(kind, metric, *models, drawn[1] - drawn[0]) <= 0.05
    return found / draws


def right(random, is_right):
    return {"is_right": is_right}


def by_class(random, is_right):
    label = np.arange(IMAGES) % 3
    return {"label": label, "answer": np.where(is_right, label, 3), "is_right": is_right}


def standard_error():
    """Of the difference of both models' shares, of which half the images are easy."""
    return (2 * 0.5 * 0.2 * 0.8 / IMAGES) ** 0.5


@pytest.mark.parametrize(
    ("metric", "kind", "column"),
    [("acc1", Choice(), right), ("mean_per_class_recall", Classification(), by_class)],
)
def test_equal_models_are_rarely_called_different_and_two_standard_errors_are_found_in_half(
    metric, kind, column, monkeypatch
):
    """Of 400 draws 5 % is 20; a share of 5 % is within 7.2 % with all but one in a hundred."""
    monkeypatch.setattr("neuclip.evaluation.bootstrap.RESAMPLES", 200)  # of each of 600 comparisons
    assert called_different(metric, 0.0, 400, kind, column) <= 0.07
    assert 0.4 <= called_different(metric, 2 * standard_error(), 200, kind, column) <= 0.65


def test_mcnemar_s_table_of_a_textbook():
    """5 images that the first alone has right, 15 that the second alone has: p = 0.0414, two-sided and exact."""
    first = np.array([True] * 5 + [False] * 15 + [True] * 30)
    second = np.array([False] * 5 + [True] * 15 + [True] * 30)
    models = {"is_right": first}, {"is_right": second}
    assert p_value(Choice(), "acc1", *models, np.zeros(1)) == pytest.approx(0.0414, abs=5e-5)
    assert p_value(Choice(), "acc1", models[0], models[0], np.zeros(1)) == 1.0


def test_holm_s_own_order():
    """The second fails at 0.05 / 3, so none after it stands, whatever its p."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == [True, False, False, False]
    assert holm([0.04, 0.001, 0.02]) == [True, True, True]
    assert holm([0.06]) == [False]
    assert holm([]) == []


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two models under one root, on two sets and on one."""
    base = tmp_path_factory.mktemp("compared")
    sets = []
    for number in (0, 1):
        members = [
            part
            for n, colour in enumerate(NAMES * 6)
            for part in labelled(colour, 1000 * number + n)
        ]
        sets.append(classification_set(base, members, name=f"wds_colours{number}_test"))
    uris = []
    for name, towers in (("raw", tiny_towers()), ("trained", train_a_little(tiny_towers()))):
        select = base / name
        save_towers(towers, select / "model")
        sha256 = sha256_of(str(select / "model" / WEIGHTS_FILE))
        commit_by_hand(select, "select", summary={"model_sha256": sha256})
        for count in (1, 2):
            config = EvaluateConfig(sets=sets[:count])
            uris.append(_commit(config, f"{name}{count}", str(select), str(base / "lake")))
    return uris


def _commit(config, key, select, root):
    identity = StageIdentity("evaluate", 4, key, {}, {}, root)

    def work(workspace):
        return run_evaluate(
            config, select_uri=select, root=root, workspace=workspace, progress=silent
        )

    commit_stage(identity, work)
    return identity.uri


def test_a_trained_model_is_better_on_both_sets_and_on_average(evaluated, tmp_path):
    raw, trained = evaluated[1], evaluated[3]
    [versus] = compare([raw, trained])
    assert [task.task for task in versus.tasks] == ["colours0", "colours1"]
    for row in (*versus.tasks, versus.average):
        assert row.is_different
        assert row.difference == pytest.approx(row.second - row.first)
        assert 0 < row.interval.low <= row.difference <= row.interval.high
        assert cells_of(row)[-1] == "yes"
    write_comparison([versus], tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())[0]["second"] == trained
    assert (tmp_path / "comparison.md").read_text().count("| yes |") == 3
    assert (tmp_path / "comparison.svg").read_text().startswith("<?xml")


def test_a_model_is_no_better_than_itself(evaluated):
    [versus] = compare([evaluated[0], evaluated[1]])
    assert versus.average is None
    assert versus.not_compared == ["colours1"]
    [task] = versus.tasks
    assert (task.difference, task.interval, task.p) == (0, (0, 0), 1)
    assert not task.is_different


def test_three_models_are_three_pairs(evaluated):
    found = compare(evaluated[:3])
    assert [(one.first, one.second) for one in found] == [
        (evaluated[0], evaluated[1]),
        (evaluated[0], evaluated[2]),
        (evaluated[1], evaluated[2]),
    ]


def test_the_command_shows_a_table_and_json(evaluated, tmp_path):
    words = ["compare", evaluated[1], evaluated[3]]
    shown = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "average" in shown.output
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert len(told["comparisons"][0]["tasks"]) == 2
    alone = CliRunner().invoke(app, ["compare", evaluated[1]])
    assert alone.exit_code != 0


def test_what_cannot_be_compared_is_refused(evaluated, tmp_path):
    with pytest.raises(DataError, match=r"of the stage select, expected a folder of evaluate"):
        compare([evaluated[0], str(Path(evaluated[0]).parents[2] / "raw")])
    other = classification_set(
        tmp_path,
        [part for n, colour in enumerate(NAMES * 2) for part in labelled(colour, n)],
        name="wds_colours0_test",
    )
    root = Path(evaluated[0]).parents[2]
    uri = _commit(EvaluateConfig(sets=[other]), "other", str(root / "raw"), str(root / "lake"))
    with pytest.raises(DataError, match="scores of other versions are not comparable"):
        compare([evaluated[0], uri])
    lone = classification_set(
        tmp_path,
        [part for n, colour in enumerate(NAMES) for part in labelled(colour, n)],
        name="wds_lone_test",
    )
    uri = _commit(EvaluateConfig(sets=[lone]), "lone", str(root / "raw"), str(root / "lake"))
    with pytest.raises(DataError, match="on no set in common: colours0 and lone"):
        compare([evaluated[0], uri])
