import json

import pytest
import torch
from made.committed import commit_by_hand
from made.side_files import commit_side_files
from towers.tiny import COLOURS, picture, tiny_towers, train_a_little, write_tar

from neuclip.foundation.errors import DataError, IntegrityError, NumericsError
from neuclip.foundation.progress import silent
from neuclip.selection.choose import choose
from neuclip.selection.config import SelectConfig
from neuclip.selection.run import run_select
from neuclip.selection.score import CheckpointScore
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.towers.folder import save_towers


def save_checkpoint(train, towers, step):
    folder = train / "checkpoints" / f"step-{step:08d}"
    save_towers(towers, folder)
    (folder / "checkpoint.json").write_text(json.dumps({"step": step, "samples_seen": step * 7}))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A train folder whose second checkpoint knows the colours, and a shard folder that holds them out."""
    base = tmp_path_factory.mktemp("stages")
    good = train_a_little(tiny_towers())
    for step, towers in ((10, tiny_towers(5)), (20, good), (30, tiny_towers(6))):
        save_checkpoint(base / "train", towers, step)
    commit_by_hand(base / "train", "train")
    members = []
    for number, colour in enumerate(COLOURS):
        members.append((f"{number:032x}.jpg", picture(colour, seed=1000 + number)))
        members.append((f"{number:032x}.txt", f"a photo of {colour}".encode()))
        members.append((f"{number:032x}.json", b"{}"))
    members += [("f" * 32 + ".jpg", b"broken"), ("f" * 32 + ".txt", b"a photo of nothing")]
    shards = {"selection-00000.tar": members[:9], "shard-00000.tar": [("x.txt", b"not this")]}
    commit_shards(base, [shards, {"selection-00000.tar": members[9:]}])
    return base


def commit_shards(base, parts):
    """Commit a shard stage of which only the tars matter; their members by name, part by part."""
    ledger = make_ledger(1, 1, {})
    for number, tars in enumerate(parts):

        def work(workspace, tars=tars):
            for name, members in tars.items():
                write_tar(workspace.output / name, members)
            return Outcome(ledger)

        # Names of parts are digests, so their order is not that of the parts.
        commit_stage(StageIdentity("shard", 1, f"part{9 - number}", {}, {}, str(base), True), work)
    keys = [f"part{9 - number}" for number in range(len(parts))]
    commit_stage(
        StageIdentity("shard", 1, "key", {}, {}, str(base)), lambda _: Outcome(ledger, parts=keys)
    )
    commit_side_files(base, {"human": {}})


@pytest.fixture
def workspace(tmp_path):
    for name in ("output", "scratch"):
        (tmp_path / name).mkdir()
    return Workspace(uri=str(tmp_path), output=tmp_path / "output", scratch=tmp_path / "scratch")


def select(stages, workspace, **config):
    return run_select(
        SelectConfig(**config),
        train_uri=str(stages / "train"),
        shard_uri=str(stages / "shard" / "key"),
        index_uri=str(stages / "index" / "index-key"),
        workspace=workspace,
        progress=silent,
    )


def test_the_checkpoint_that_learned_is_chosen(stages, workspace):
    outcome = select(stages, workspace, batch_size=4)
    outcome.ledger.check("select")
    assert outcome.ledger.model_dump(by_alias=True) == {
        "in": 3,
        "out": 1,
        "dropped": {"lower_score": 2},
    }
    choice = json.loads((workspace.output / "choice.json").read_text())
    assert choice == outcome.summary
    assert (choice["step"], choice["samples_seen"], choice["samples"]) == (20, 140, 7)
    assert choice["value"] > 0.8 > 3 * choice["chance"]
    assert choice["chance"] == pytest.approx(1 / 7)
    assert "20" in choice["why"]
    assert choice["runner_up"]["step"] in (10, 30)
    scores = json.loads((workspace.output / "scores.json").read_text())
    assert [row["step"] for row in scores] == [10, 20, 30]
    assert all(row["undecodable"] == 1 for row in scores)
    source = stages / "train" / "checkpoints" / "step-00000020"
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert (workspace.output / "model" / name).read_bytes() == (source / name).read_bytes()
    assert sorted(p.name for p in workspace.output.iterdir()) == [
        "choice.json",
        "model",
        "scores.json",
    ]


def test_max_samples_takes_the_first(stages, workspace):
    assert select(stages, workspace, max_samples=4).summary["samples"] == 4


def test_a_split_that_is_too_small_says_what_to_do(stages, workspace, tmp_path):
    commit_shards(tmp_path, [{"selection-00000.tar": []}])
    with pytest.raises(DataError, match=r"0 pairs.*shard\.selection_share"):
        run_select(
            SelectConfig(),
            train_uri=str(stages / "train"),
            shard_uri=str(tmp_path / "shard" / "key"),
            index_uri=str(tmp_path / "index" / "index-key"),
            workspace=workspace,
            progress=silent,
        )


def test_no_checkpoint_and_half_a_checkpoint_are_refused(stages, workspace, tmp_path):
    def run():
        run_select(
            SelectConfig(),
            train_uri=str(tmp_path / "train"),
            shard_uri=str(stages / "shard" / "key"),
            index_uri=str(stages / "index" / "index-key"),
            workspace=workspace,
            progress=silent,
        )

    half = tmp_path / "train" / "checkpoints" / "step-00000001"
    half.mkdir(parents=True)
    commit_by_hand(tmp_path / "train", "train")
    with pytest.raises(DataError, match="no checkpoint"):
        run()
    save_towers(tiny_towers(), half)
    commit_by_hand(tmp_path / "train", "train")
    with pytest.raises(IntegrityError, match=r"checkpoint\.json is not among the files"):
        run()


def test_broken_weights_are_refused(stages, workspace, tmp_path):
    towers = tiny_towers()
    with torch.no_grad():
        towers.model.visual.proj.fill_(torch.nan)
    save_checkpoint(tmp_path / "train", towers, 1)
    commit_by_hand(tmp_path / "train", "train")
    with pytest.raises(NumericsError, match="not finite"):
        run_select(
            SelectConfig(),
            train_uri=str(tmp_path / "train"),
            shard_uri=str(stages / "shard" / "key"),
            index_uri=str(stages / "index" / "index-key"),
            workspace=workspace,
            progress=silent,
        )


def score(step, forth, back):
    return CheckpointScore(
        step=step,
        samples_seen=step,
        model_sha256="0",
        samples=50,
        undecodable=0,
        chance=0.02,
        image_to_text_recall_at_1=forth,
        text_to_image_recall_at_1=back,
        mean_recall_at_1=(forth + back) / 2,
    )


@pytest.mark.parametrize(
    ("metric", "step"),
    [
        ("mean_recall_at_1", 2),
        ("image_to_text_recall_at_1", 1),
        ("text_to_image_recall_at_1", 3),
    ],
)
def test_the_metric_decides(metric, step):
    scores = [score(1, 0.9, 0.0), score(2, 0.5, 0.5), score(3, 0.0, 0.8)]
    assert choose(scores, metric=metric).step == step


def test_of_equals_the_later_is_taken_and_alone_there_is_no_runner_up():
    choice = choose([score(1, 0.5, 0.5), score(2, 0.5, 0.5)], metric="mean_recall_at_1")
    assert (choice.step, choice.runner_up.step) == (2, 1)
    assert choose([score(1, 0.5, 0.5)], metric="mean_recall_at_1").runner_up is None
