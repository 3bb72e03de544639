"""Oracle: the tensors of the folder that a run starts from, to the bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.micro_batch_cases import SMALL
from training.runs import ARCHITECTURE, make_config, make_packed, metrics, train, train_here

from neuclip.foundation.errors import ConfigError
from neuclip.objectives.registry import build
from neuclip.towers.config import ModelConfig
from neuclip.towers.files import CONFIG_FILE, WEIGHTS_FILE
from neuclip.towers.folder import write_towers
from neuclip.towers.initial import Start
from neuclip.towers.model import create_towers
from neuclip.training.parts import begin_objective


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return make_packed(tmp_path_factory.mktemp("packed"))


def published(folder: Path, *, scale=3.25, bias=None, seed=11) -> Path:
    towers = create_towers(ModelConfig(architecture=ARCHITECTURE), seed=seed)
    weights = {n: x.clone() for n, x in towers.model.state_dict().items()}
    weights["logit_scale"] = torch.tensor(scale)
    if bias is not None:
        weights["logit_bias"] = torch.tensor(bias)
    write_towers(towers, weights, folder)
    return folder


@pytest.mark.parametrize(
    ("name", "bias"),
    [("neuclip", None), ("openclip", None), ("siglip", -3.5), ("sogclr", None)],
)
def test_a_run_of_no_update_publishes_what_it_started_from(tmp_path, packed, name, bias):
    model = published(tmp_path / "model", bias=bias)
    config = make_config(
        objective={"name": name, **SMALL.get(name, {})},
        initial={"model": str(model)},
        epochs=0,
        probe=None,
        ema_decay=0.9,
    )
    result = train_here(tmp_path / "run", packed, config)
    assert (result.steps, result.samples_seen, result.final_loss) == (0, 0, None)
    (folder,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    expected, found = load_file(model / WEIGHTS_FILE), load_file(folder / WEIGHTS_FILE)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key
    ours, theirs = (json.loads((f / CONFIG_FILE).read_text()) for f in (folder, model))
    assert ours == theirs


def test_no_update_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"epochs 0 publishes the weights.*train\.initial"):
        make_config(epochs=0)


@pytest.mark.slow
@pytest.mark.slow
def test_the_stage_logs_what_was_fitted_and_its_manifest_what_it_started_from(tmp_path, packed):
    half = published(tmp_path / "half")
    weights = {f"module.{n}": x.half() for n, x in load_file(half / WEIGHTS_FILE).items()}
    save_file(weights, half / WEIGHTS_FILE)
    config = make_config(initial={"model": str(half)}, epochs=0, probe=None)
    folder, manifest = train(tmp_path, packed, config)
    said = (folder / "train.log").read_text()
    assert said.count("train.initial: weights in float16 were converted to float32") == 1
    assert "names began with `module.`" in said
    assert (manifest.ledger.entered, manifest.ledger.out) == (
        manifest.ledger.dropped["not_visited"],
        0,
    )
    assert metrics(folder) == []


@pytest.mark.slow
def test_what_does_not_fit_ends_the_stage_with_one_message(tmp_path, packed):
    model = published(tmp_path / "model")
    wider = {**ARCHITECTURE, "embed_dim": 24}
    config = make_config(model={"architecture": wider}, initial={"model": str(model)}, probe=None)
    with pytest.raises(
        ConfigError, match=r"text_projection is \[16, 16\] in .*expected \[16, 24\]"
    ):
        train(tmp_path, packed, config)


@pytest.mark.parametrize("temperature", ["keep", "new"])
def test_the_temperature_is_kept_or_the_sections(temperature):
    config = make_config()
    objective = build(config.objective, feature_dim=16, num_samples=9)
    new = objective.logit_scale_and_bias()[0].clone()
    kept = torch.tensor(3.25) if temperature == "keep" else None
    begin_objective(objective, Start(None, kept, None, [], []))
    expected = kept if kept is not None else new
    assert torch.equal(objective.logit_scale_and_bias()[0], expected)


def test_temperatures_of_samples_all_start_from_the_models():
    config = make_config(objective={"name": "isogclr"})
    objective = build(config.objective, feature_dim=16, num_samples=9)
    objective.start_at(torch.tensor(3.0), None)
    torch.testing.assert_close(objective.logit_scale_and_bias()[0], torch.tensor(3.0))
    assert objective.individual.table.rows_RC[:, :2].unique().numel() == 1
