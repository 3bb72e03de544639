"""Oracles: FLOPs counted by hand; the trackers' own readers."""

import json

import pytest
import torch
from torch import nn
from training.runs import make_config, metrics, train_here

from neuclip.distributed.world import World
from neuclip.training import meter
from neuclip.training.meter import Meter, forward_flops
from neuclip.training.telemetry_config import TelemetryConfig

QUICK = {"loader": {"workers": 0}, "probe": None, "epochs": 1, "keep_best": 0}


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.images, self.tokens = nn.Linear(12, 5, bias=False), nn.Linear(7, 3, bias=False)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, images, tokens, patches):
        assert patches == {}
        return self.norm(self.images(images["main"])), self.tokens(tokens["main"])


def test_flops_of_a_forward_pass_are_those_of_its_products_and_leave_the_model_as_it_was():
    encoders = TwoLayers()
    before = {name: tensor.clone() for name, tensor in encoders.state_dict().items()}
    found = forward_flops(encoders, ({"main": torch.ones(4, 12)}, {"main": torch.ones(4, 7)}, {}))
    assert found == 2 * (12 * 5 + 7 * 3)
    assert encoders.training
    assert all(torch.equal(before[name], tensor) for name, tensor in encoders.state_dict().items())


class Clock:
    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    return clock


def test_the_meter_s_numbers(clock):
    config = TelemetryConfig(peak_tflops=0.001, price_per_hour=2.0, budget=4.0)
    world = World(rank=0, size=2, device=torch.device("cpu"), local_rank=0)
    found = Meter(config, world, flops_per_sample=100_000, in_bf16=False, device_hours=1.5)
    for _ in range(3):
        clock.now += 1.0
        found.batch_arrived()
        clock.now += 3.0
        found.batch_done(64)
    numbers = found.close()
    assert numbers["samples_per_s"] == pytest.approx(16)
    assert numbers["data_wait"] == pytest.approx(0.25)
    assert numbers["flops_per_s"] == pytest.approx(16 * 300_000)
    assert numbers["mfu"] == pytest.approx(16 * 300_000 / 2e9)
    assert numbers["device_hours"] == pytest.approx(1.5 + 2 * 12 / 3600)
    assert numbers["cost"] == pytest.approx(2 * numbers["device_hours"])
    assert not found.is_over_budget
    clock.now += 900.0
    assert found.is_over_budget
    assert found.close()["samples_per_s"] == 0


def test_without_a_known_peak_or_price_there_is_no_share_and_no_cost():
    config = TelemetryConfig()
    found = Meter(config, World.single(), flops_per_sample=1, in_bf16=True, device_hours=0.0)
    assert not {"mfu", "cost"} & set(found.close())
    assert not found.is_over_budget


def test_a_budget_needs_a_price():
    with pytest.raises(ValueError, match="a budget needs price_per_hour"):
        TelemetryConfig(budget=3)


def test_what_every_line_of_metrics_has(packed, tmp_path):
    train_here(tmp_path, packed, make_config(**QUICK))
    wanted = {
        "step",
        "samples_seen",
        "loss",
        "temperature",
        "sample_ids_sha256",
        "samples_per_s",
        "data_wait",
        "flops_per_s",
        "memory_gib",
        "device_hours",
        "grad_norm",
        "ratio_max",
    }
    for line in metrics(tmp_path):
        assert wanted <= set(line)
        assert json.dumps(line, allow_nan=False)


def test_tensorboard_has_the_same_numbers(packed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_here(tmp_path, packed, make_config(**QUICK))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({line["step"]: line["loss"] for line in metrics(tmp_path)})


@pytest.mark.slow
def test_wandb_writes_its_own_files_offline(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = make_config(**QUICK, telemetry={"trackers": ["wandb"]})
    train_here(tmp_path, packed, config)
    (written,) = (tmp_path / "wandb").glob("offline-run-*-k/run-k.wandb")
    assert written.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database
def test_mlflow_has_the_numbers_and_a_resumed_run_is_the_same_one(packed, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    config = make_config(**QUICK, telemetry={"trackers": ["mlflow"], "project": "tests"})
    for _ in range(2):
        train_here(tmp_path / "run", packed, config)
    (run,) = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    lines = metrics(tmp_path / "run")
    assert {point.step: point.value for point in history} == pytest.approx(
        {line["step"]: line["loss"] for line in lines}
    )
