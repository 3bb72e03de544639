"""Oracles: a dictionary filled step by step, the order of the data, the run without a break or without statistics."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from oracles.rank_pool import shared_pool
from safetensors.torch import load_file
from training.micro_batch_cases import make_batch, make_trainer
from training.runs import kill_rank_when, make_config, train
from training.statistics_cases import notes, restored, table_of

from neuclip.distributed.world import World
from neuclip.foundation.errors import CheckpointError, ChildError
from neuclip.index.reader import read_samples
from neuclip.index.sample_index import STATISTICS, SampleIndex
from neuclip.loading.order import BatchOrder
from neuclip.objectives.objective import ObjectiveResult
from neuclip.training.sample_statistics import BYTES_A_SAMPLE, SampleStatistics

CASES = Path(__file__).with_name("statistics_cases.py")
SHORT = {"sample_statistics": True, "epochs": 2, "probe": None, "keep_best": 0}


def result_of(images, texts, losses):
    return ObjectiveResult(torch.tensor(0.0), (images, texts), {}, losses)


def test_the_last_values_and_all_visits_are_kept():
    """Six steps of batches in which a sample may be twice."""
    sample_statistics, expected = SampleStatistics(10, World.single()), {}
    visits = Counter()
    for step in range(1, 7):
        draw = torch.Generator().manual_seed(step)
        ids = torch.randint(8, (5,), generator=draw)
        values = torch.randn(3, 5, generator=draw)
        sample_statistics.note(ids, result_of(*values), step=step)
        for place, number in enumerate(ids.tolist()):
            visits[number] += 1
            expected[number] = [*values[:, place].tolist(), step]
    state = sample_statistics.state()
    names = ("log_normalizer_image", "log_normalizer_text", "loss", "step")
    for number in range(10):
        found = [state[name][number].item() for name in names]
        if number in expected:
            assert found == expected[number]
        else:
            assert np.isnan(found[:3]).all()
            assert found[3] == 0
        assert state["visits"][number] == visits[number]
    assert max(visits.values()) > 2
    assert sum(x.element_size() for x in state.values()) == BYTES_A_SAMPLE


def test_a_row_a_sample_is_written_and_what_is_not_known_is_null(tmp_path):
    sample_statistics = SampleStatistics(4, World.single())
    nothing = ObjectiveResult(torch.tensor(0.0), None, {})
    sample_statistics.note(torch.tensor([2, 0]), nothing, step=1)
    one = torch.tensor([1.0])
    sample_statistics.note(torch.tensor([2]), result_of(one, 2 * one, 3 * one), step=2)
    sample_statistics.write(tmp_path / STATISTICS)
    assert pq.read_table(tmp_path / STATISTICS).to_pydict() == {
        "sample_id": [0, 1, 2, 3],
        "visits": [1, 0, 2, 0],
        "step": [1, 0, 2, 0],
        "log_normalizer_image": [None, None, 1.0, None],
        "log_normalizer_text": [None, None, 2.0, None],
        "loss": [None, None, 3.0, None],
    }


@pytest.mark.parametrize("name", ["openclip", "neuclip", "fastclip", "siglip"])
def test_nothing_changes_but_that_they_are_there(name):
    states = []
    for on in (False, True):
        trainer = make_trainer(name, global_batch=16, sample_statistics=on)
        for step in range(3):
            batch = make_batch(trainer, step)
            trainer.update(batch)
        states.append((trainer.model_state(), trainer.objective.state_dict()))
    for without, found in zip(*states, strict=True):
        assert all(torch.equal(value, found[key]) for key, value in without.items())


@pytest.mark.parametrize("name", ["openclip", "neuclip", "fastclip"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_keep_what_one_keeps(name, parallel):
    settings = {"name": name, "global_batch": 16, "sample_statistics": True}
    one = notes(settings, 3)
    main, other = shared_pool().run(2, CASES, "notes", settings | {"parallel": parallel}, 3)
    assert other == {}
    for key, value in one.items():
        torch.testing.assert_close(main[key], value, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert one["visits"].sum() == 3 * 16


def test_they_are_part_of_a_checkpoint(tmp_path):
    settings = {"global_batch": 16, "sample_statistics": True}
    whole = notes(settings, 4)
    after = restored(settings, 2, 4, tmp_path)
    for key, value in whole.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(CheckpointError, match="does not fit this recipe"):
        restored({"global_batch": 16}, 2, 4, tmp_path / "without", sample_statistics=True)


@pytest.fixture(scope="module")
def run(packed, tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"), packed, make_config(**SHORT))


@pytest.mark.slow
def test_a_run_leaves_a_table_that_fits_the_order_of_the_data(packed, run):
    folder, manifest = run
    assert STATISTICS in {file.name for file in manifest.files}
    sizes = np.bincount(read_samples(packed.index).shard)
    order = BatchOrder(sizes, seed=5, streams=4, global_batch=16)
    last, visits = {}, Counter()
    for step in range(manifest.summary["steps"]):
        for _, number in order.batch(step):
            last[number] = step + 1
            visits[number] += 1
    rows = table_of(folder)
    assert [row["sample_id"] for row in rows] == list(range(order.count))
    for row in rows:
        assert (row["visits"], row["step"]) == (visits[row["sample_id"]], last[row["sample_id"]])
        assert 0 < row["loss"] < 20
        assert -20 < row["log_normalizer_text"] < 20


@pytest.mark.slow
def test_sql_sees_them_beside_the_samples(packed, run):
    with SampleIndex(packed.index).with_statistics(str(run[0])).connect() as connection:
        rows = connection.sql(
            "SELECT uid, loss FROM sample_statistics JOIN samples USING (sample_id)"
        )
        assert len(rows.fetchall()) == SampleIndex(packed.index).count


@pytest.mark.slow
def test_a_killed_run_leaves_the_same_table_and_weights(packed, run, tmp_path):
    saved = tmp_path / "train" / "k" / "checkpoints"
    killer = kill_rank_when(
        tmp_path / "train" / "k",
        lambda line: line["step"] >= 12 and (saved / "latest.json").is_file(),
    )
    with pytest.raises(ChildError, match="SIGKILL"):
        train(tmp_path, packed, make_config(**SHORT))
    killer.join()
    folder, manifest = train(tmp_path, packed, make_config(**SHORT))
    assert manifest.summary["resumed_at"] == 8
    digests = [hashlib.sha256((f / STATISTICS).read_bytes()).digest() for f in (folder, run[0])]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_run_without_them_has_the_same_bits_and_no_table(packed, run, tmp_path):
    folder, _ = train(tmp_path, packed, make_config(**(SHORT | {"sample_statistics": False})))
    assert not (folder / STATISTICS).exists()
    one, two = (
        load_file(max((path / "checkpoints").glob("step-*")) / "state.safetensors")
        for path in (folder, run[0])
    )
    assert {key for key in two if key not in one} == {
        f"sample_statistics/{name}"
        for name in ("visits", "step", "loss", "log_normalizer_image", "log_normalizer_text")
    }
    assert all(torch.equal(value, two[key]) for key, value in one.items())
