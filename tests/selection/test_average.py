"""Oracles: scores that are planted, and the weights of the folder that is published."""

import json

import pytest
import torch
from safetensors.torch import load_file
from selection.test_run import commit_by_hand, commit_shards, save_checkpoint, select
from towers.tiny import COLOURS, picture, tiny_towers, train_a_little

from neuclip.loading.selection_split import Pair
from neuclip.selection.average import Candidate, best_average
from neuclip.selection.config import SelectConfig
from neuclip.selection.score import CheckpointScore
from neuclip.stages.workspace import Workspace
from neuclip.towers.folder import load_towers, save_towers

PAIRS = [Pair(f"{n}", b"", "") for n in range(10)]


def row(step, value):
    recalls = dict.fromkeys(
        ("mean_recall_at_1", "image_to_text_recall_at_1", "text_to_image_recall_at_1"), value
    )
    return CheckpointScore(
        step=step,
        samples_seen=step,
        model_sha256=f"{step}",
        samples=10,
        undecodable=0,
        chance=0.1,
        **recalls,
    )


def averaged(tmp_path, values, average, last=2):
    """Try averages of three checkpoints; `values` says what steps score on the halves that choose and confirm."""
    singles = []
    for step in (1, 2, 3):
        folder = tmp_path / f"single-{step}"
        save_towers(tiny_towers(step), folder)
        singles.append(Candidate(row(step, values[step][0]), folder, []))

    def score(folder, pairs, like):
        name = folder.name.removeprefix("single-")
        steps = tuple(map(int, name.split("-")))
        chooses, confirms = values[steps[0] if len(steps) == 1 else steps]
        whole = (chooses + confirms) / 2
        value = {PAIRS[0].key: chooses, PAIRS[1].key: confirms}[pairs[0].key]
        return row(like.step, whole if len(pairs) == len(PAIRS) else value)

    config = SelectConfig(average=average, average_last=last)
    best = max(singles, key=lambda one: one.row.mean_recall_at_1)
    return best_average(config, singles, best, PAIRS, score=score, scratch=tmp_path)


SINGLES = {1: (0.5, 0.5), 2: (0.7, 0.6), 3: (0.6, 0.6)}


def test_greedy_takes_what_makes_the_mean_no_worse(tmp_path):
    values = SINGLES | {(2, 3): (0.7, 0.65), (1, 2, 3): (0.69, 0.9)}
    verdict = averaged(tmp_path, values, ["greedy"])
    assert [part.step for part in verdict.average.of] == [2, 3]
    assert (verdict.on_other_half, verdict.best_on_other_half) == (0.65, 0.6)
    assert verdict.is_better
    assert verdict.average.row.mean_of == [2, 3]


def test_greedy_is_never_below_the_best_alone_on_the_half_that_chooses(tmp_path):
    values = SINGLES | {(2, 3): (0.6, 0.9), (1, 2): (0.1, 0.9)}
    verdict = averaged(tmp_path, values, ["greedy"])
    assert [part.step for part in verdict.average.of] == [2]
    assert not verdict.is_better  # it is the best checkpoint itself


def test_a_mean_that_the_other_half_does_not_confirm_is_not_better(tmp_path):
    values = SINGLES | {(2, 3): (0.9, 0.6)}
    verdict = averaged(tmp_path, values, ["uniform_last"])
    assert [part.step for part in verdict.average.of] == [2, 3]
    assert not verdict.is_better


def test_the_better_of_both_means_is_tried(tmp_path):
    values = SINGLES | {(1, 2, 3): (0.95, 0.8), (2, 3): (0.8, 0.7)}
    verdict = averaged(tmp_path, values, ["uniform_last", "greedy"], last=3)
    assert [part.step for part in verdict.average.of] == [1, 2, 3]


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Two checkpoints that each know some of the colours, near each other, and one that knows nothing."""
    base = tmp_path_factory.mktemp("stages")
    good = train_a_little(tiny_towers())
    weights = good.model.state_dict()
    for step, noise in ((10, 0.05), (20, 0.05), (30, 0.05)):
        towers = tiny_towers()
        random = torch.Generator().manual_seed(step)
        towers.model.load_state_dict(
            {
                name: tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=random)
                if tensor.is_floating_point() and tensor.numel() > 1
                else tensor
                for name, tensor in weights.items()
            }
        )
        save_checkpoint(base / "train", towers, step)
    commit_by_hand(base / "train", "train")
    members = []
    for number, colour in enumerate(list(COLOURS) * 4):
        members.append((f"{number:032x}.jpg", picture(colour, seed=1000 + number)))
        members.append((f"{number:032x}.txt", f"a photo of {colour}".encode()))
        members.append((f"{number:032x}.json", b"{}"))
    commit_shards(base, [{"selection-00000.tar": members}])
    return base


@pytest.fixture
def workspace(tmp_path):
    for name in ("output", "scratch"):
        (tmp_path / name).mkdir()
    return Workspace(uri=str(tmp_path), output=tmp_path / "output", scratch=tmp_path / "scratch")


def test_what_is_published_is_what_was_chosen(stages, workspace):
    outcome = select(stages, workspace, average=["uniform_last", "greedy"], average_last=3)
    outcome.ledger.check("select")
    assert outcome.ledger.entered == 4
    choice = json.loads((workspace.output / "choice.json").read_text())
    rows = json.loads((workspace.output / "scores.json").read_text())
    assert [row["step"] for row in rows[:3]] == [10, 20, 30]
    assert rows[3]["mean_of"]
    published = load_file(workspace.output / "model" / "open_clip_model.safetensors")
    if choice.get("mean_of"):
        assert choice["model_sha256"] == rows[3]["model_sha256"]
        assert "is better than any checkpoint" in choice["why"]
        expected = [
            load_file(stages / f"train/checkpoints/step-{s:08d}/open_clip_model.safetensors")
            for s in choice["mean_of"]
        ]
        for name, tensor in published.items():
            mean = torch.stack([one[name].double() for one in expected]).mean(dim=0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
    else:
        assert "is no better" in choice["why"]
    load_towers(workspace.output / "model")


def test_without_averages_files_and_key_are_those_of_before(stages, workspace):
    select(stages, workspace)
    rows = json.loads((workspace.output / "scores.json").read_text())
    assert "mean_of" not in rows[0]
    assert "mean_of" not in json.loads((workspace.output / "choice.json").read_text())
    assert SelectConfig().keyed() == {"max_samples": 5000, "metric": "mean_recall_at_1"}
