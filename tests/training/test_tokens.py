"""Tokens and phases. Oracles: a run without a policy, a policy by hand, one rank against two, a run nothing stopped."""

import json
import signal

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from training.runs import ARCHITECTURE, make_config, metrics, train, train_here, weights

from neuclip.checkpoint.state import load_state
from neuclip.foundation.errors import StoppedError
from neuclip.index.reader import read_samples
from neuclip.loading.batches import load_lists
from neuclip.loading.order import BatchOrder
from neuclip.loading.visits import MAIN, Visit
from neuclip.tokens.images.policy import build_patch_policy
from neuclip.towers.model import create_towers
from neuclip.training import loop
from neuclip.training.parts import training_samples
from neuclip.training.phases import plan_phases

FINE = {**ARCHITECTURE, "vision_cfg": {**ARCHITECTURE["vision_cfg"], "patch_size": 4}}
FIXED = {**FINE, "vision_cfg": {**FINE["vision_cfg"], "pos_embed_type": "sin_cos_2d"}}
QUICK = {
    "model": {"architecture": FINE},
    "loader": {"workers": 0},
    "probe": None,
    "keep_best": 0,
    "epochs": 1,
    "objective": {"name": "openclip"},
}
FEW = {
    "image_tokens": {"name": "random", "keep": "1/4"},
    "text_tokens": {"name": "random"},
    "context_length": 5,
}
TABLE = "visual.positional_embedding"


def without_epochs(**changes):
    return make_config(**{"epochs": sum(phase["epochs"] for phase in changes["phases"]), **changes})


SHORT_THEN_FULL = [
    {
        "epochs": 1,
        "image_px": 8,
        "context_length": 5,
        "text_tokens": {"name": "syntax"},
        "lr": 2e-3,
    },
    {
        "epochs": 0.5,
        "image_tokens": {"name": "grid"},
        "text_tokens": {"name": "block"},
        "context_length": 7,
    },
    {"epochs": 0.5, "learn_positions": True},
]


def phased(**changes):
    settings = {**QUICK, "model": {"architecture": FIXED}, "warmup_steps": 2, **changes}
    return without_epochs(**{"phases": SHORT_THEN_FULL, **settings, "epochs": 2})


def samples_of(packed, config):
    return training_samples(
        config,
        read_samples(packed.index),
        create_towers(config.model, seed=0, change=lambda cfg: sized_as(cfg, config)),
        shard_uri=packed.shard,
        index_uri=packed.index,
        seed=5,
    )


def sized_as(architecture, config):
    text = {**architecture["text_cfg"]}
    text["context_length"] = config.context_length or text["context_length"]
    return {**architecture, "text_cfg": text}


def order_of(packed, config):
    sizes = torch.bincount(torch.tensor(read_samples(packed.index).shard)).numpy()
    return BatchOrder(sizes, seed=5, streams=config.streams, global_batch=config.global_batch)


def test_policies_that_keep_all_train_to_the_bits_of_none(packed, tmp_path):
    """A share of 1, and texts that fit."""
    ways = {
        "none": {},
        "all": {"image_tokens": {"name": "random", "keep": 1}},
        "block": {"image_tokens": {"name": "block", "keep": "1"}},
        "named": {"image_tokens": {"name": "resize"}, "text_tokens": {"name": "truncate"}},
    }
    for name, tokens in ways.items():
        train_here(tmp_path / name, packed, make_config(**QUICK | tokens))
    long = {"context_length": 40}
    for name in ("truncate", "random", "syntax"):
        config = make_config(**QUICK | long | {"text_tokens": {"name": name}})
        train_here(tmp_path / f"long {name}", packed, config)
    none = weights(tmp_path / "none")
    assert all(weights(tmp_path / name) == none for name in ways)
    fits = [weights(tmp_path / f"long {name}") for name in ("truncate", "random", "syntax")]
    assert fits[0] == fits[1] == fits[2] != none


def test_a_batch_has_the_patches_of_its_visits(packed):
    """Oracle: the policy by hand."""
    config = make_config(
        **QUICK
        | FEW
        | {"image_views": {"second": {}}, "terms": {"mvs": {"name": "multi_view", "weight": 1}}}
    )
    pairs = [(epoch, sample_id) for epoch in range(2) for sample_id in range(9)]
    batch = samples_of(packed, config).__getitems__(pairs)
    policy = build_patch_policy(config.image_tokens, 4)
    for view in (MAIN, "second"):
        assert batch.patches[view].shape == (18, 4)
        for row, pair in zip(batch.patches[view], pairs, strict=True):
            assert row.tolist() == policy(Visit(5, *pair).draws("patches", view)).tolist()
    assert not torch.equal(batch.patches[MAIN], batch.patches["second"])
    assert samples_of(packed, make_config(**QUICK)).__getitems__(pairs).patches == {}


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_and_workers_sees_the_same_tokens(packed, ranks):
    config = make_config(**QUICK | FEW)
    samples, order = samples_of(packed, config), order_of(packed, config)
    for step in (0, 7):
        whole = samples.__getitems__(order.batch(step))
        parts = [
            samples.__getitems__(order.batch(step, rank=rank, size=ranks)) for rank in range(ranks)
        ]
        assert torch.equal(whole.patches[MAIN], torch.cat([part.patches[MAIN] for part in parts]))
        assert torch.equal(whole.texts[MAIN], torch.cat([part.texts[MAIN] for part in parts]))
        [loaded] = load_lists(samples, [order.batch(step)], workers=ranks // 2, pin_memory=False)
        assert torch.equal(loaded.patches[MAIN], whole.patches[MAIN])
        assert torch.equal(loaded.texts[MAIN], whole.texts[MAIN])


def test_micro_batches_keep_the_patches_of_their_pairs(packed, tmp_path):
    """Without a batch norm the gradient is that of the whole batch."""
    for name, size in (("whole", None), ("micro", 4)):
        config = make_config(**QUICK | FEW | {"micro_batch": size})
        train_here(tmp_path / name, packed, config)
    whole, micro = (metrics(tmp_path / name) for name in ("whole", "micro"))
    for one, other in zip(whole, micro, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=2e-4)


def test_fewer_tokens_cost_fewer_products(packed, tmp_path):
    """Samples per second times FLOPs a sample is FLOP/s: the meter counts the tokens that are kept."""
    for name, tokens in (("all", {}), ("few", FEW)):
        train_here(tmp_path / name, packed, make_config(**QUICK | tokens | {"precision": "fp32"}))
    flops = {
        name: metrics(tmp_path / name)[-1]["flops_per_s"]
        / metrics(tmp_path / name)[-1]["samples_per_s"]
        for name in ("all", "few")
    }
    assert 0.2 < flops["few"] / flops["all"] < 0.6


def phase_ends(packed, config):
    return [phase.last for phase in plan_phases(config, read_samples(packed.index).count)]


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step-{step:08d}"


@pytest.mark.parametrize("how", ["interpolate", "regenerate"])
def test_fixed_positions_come_into_a_phase_and_are_learned_in_the_last(
    packed, tmp_path, how, caplog
):
    """A table that is made anew has CLIPA's integer coordinates: the small one is its corner."""
    caplog.set_level("INFO", "neuclip.training.saving")
    config = phased(positions=how, ema_decay=0.9)
    result = train_here(tmp_path, packed, config)
    ends = phase_ends(packed, config)
    tables = [
        load_file(checkpoint(tmp_path, end) / "open_clip_model.safetensors")[TABLE] for end in ends
    ]
    assert [len(table) for table in tables] == [5, 17, 17]
    own = create_towers(config.model, seed=0).model.visual.positional_embedding
    small, large = tables[0][1:].reshape(2, 2, -1), tables[1][1:].reshape(4, 4, -1)
    assert torch.equal(large[:2, :2], small) == (how == "regenerate")
    assert torch.equal(tables[1], own) == (how == "regenerate")
    assert not torch.equal(tables[2], tables[1])  # learned in the last phase
    done = {"interpolate": "interpolated", "regenerate": "made anew"}[how]
    assert result.positions == [
        f"step {ends[0]}: {TABLE} was {done}, [5, 16] became [17, 16]",
        f"step {ends[0]}: positional_embedding was interpolated, [5, 16] became [7, 16]",
        f"step {ends[1]}: positional_embedding was interpolated, [7, 16] became [12, 16]",
        f"step {ends[1]}: {TABLE} is learned from here on",
    ]
    record = json.loads((checkpoint(tmp_path, ends[2]) / "checkpoint.json").read_text())
    assert record["positions"] == result.positions
    assert all(note in caplog.text for note in result.positions)


def test_moments_of_all_else_go_on_where_positions_begin_to_be_learned(packed, tmp_path):
    config = phased(save_every_steps=1000)
    train_here(tmp_path, packed, config)
    ends = phase_ends(packed, config)
    before, after = (
        load_state(checkpoint(tmp_path, end) / "state.safetensors")["optimiser"]["moments"]
        for end in ends[1:]
    )
    steps = {name: int(own["step"]) for name, own in after.items()}
    assert TABLE not in before
    assert steps.pop(TABLE) == ends[2] - ends[1]
    assert steps.pop("positional_embedding") == ends[2] - ends[1]
    assert set(steps.values()) == {ends[2]}
    assert steps.keys() == before.keys() - {"positional_embedding"}


def stopped_at(monkeypatch, at):
    sound = loop._Run._step

    def step(self, batch):
        if self.trainer.step == at and not self.begun_at:
            signal.raise_signal(signal.SIGTERM)
        sound(self, batch)

    monkeypatch.setattr(loop._Run, "_step", step)


@pytest.mark.parametrize(
    ("switch", "distance"),
    [
        (0, -1),
        (1, 0),
        *(pytest.param(*at, marks=pytest.mark.slow) for at in [(0, -2), (0, 0), (0, 1), (1, -1)]),
    ],
)
def test_a_run_stopped_around_a_switch_goes_on_to_the_same_bits(
    packed, tmp_path, monkeypatch, switch, distance, whole_phased
):
    config = phased(**WITH_STATE)
    at = phase_ends(packed, config)[switch] + distance
    stopped_at(monkeypatch, at)
    with pytest.raises(StoppedError, match=f"saved at step {at + 1}"):
        train_here(tmp_path, packed, config)
    result = train_here(tmp_path, packed, config)
    assert weights(tmp_path) == weights(whole_phased[0])
    assert result.positions == whole_phased[1].positions


WITH_STATE = {
    "objective": {"name": "neuclip", "warm_steps": 3},
    "ema_decay": 0.9,
    "positions": "regenerate",
}


@pytest.fixture(scope="module")
def whole_phased(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("phased")
    return folder, train_here(folder, packed, phased(**WITH_STATE))


def test_the_estimator_alone_learns_after_a_switch(packed, tmp_path):
    """Weights and temperature stay for so many steps; the network does not."""
    config = phased(
        objective={"name": "neuclip", "warm_steps": 3},
        save_every_steps=1,
        keep_checkpoints=100,
        phases=SHORT_THEN_FULL[:1] * 2,
    )
    train_here(tmp_path, packed, config)
    [switch, _] = phase_ends(packed, config)
    states = [load_state(checkpoint(tmp_path, switch + n) / "state.safetensors") for n in range(5)]
    for n in (1, 2, 3):
        for name, tensor in states[0]["model"].items():
            assert torch.equal(tensor, states[n]["model"][name]), (n, name)
        changed = {
            name
            for name, tensor in states[n]["objective"].items()
            if not torch.equal(tensor, states[n - 1]["objective"][name])
        }
        assert any(name.startswith("estimator.") for name in changed)
        assert not any("temperature" in name for name in changed)
    assert not torch.equal(
        states[3]["model"][TABLE.replace("visual.", "")], states[4]["model"]["positional_embedding"]
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_train_on_the_tokens_that_one_does(packed, tmp_path):
    config = phased(loader={"workers": 1})
    one, _ = train(tmp_path / "one", packed, config)
    two, _ = train(
        tmp_path / "two",
        packed,
        config.model_copy(update={"launch": config.launch.model_copy(update={"processes": 2})}),
    )
    for ours, theirs in zip(metrics(two), metrics(one), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["sample_ids_sha256"] == theirs["sample_ids_sha256"]


RESNET = {**ARCHITECTURE, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}
WINDOWS = {
    **ARCHITECTURE,
    "vision_cfg": {"timm_model_name": "swin_tiny_patch4_window7_224", "image_size": 224},
}

TIMM = {
    **ARCHITECTURE,
    "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_tokens": {"name": "grid"}, "image_px": 12}, "image_tokens: grid .* 3 x 3 patches"),
        ({"image_tokens": {"name": "random", "keep": "1/20"}}, "at least one is needed"),
        ({"image_tokens": {"name": "block", "keep": "7/16"}}, "no rectangle"),
        ({"image_tokens": {"name": "random"}}, "keep"),
        ({"image_tokens": {"name": "randm", "keep": 1}}, "random"),
        ({"image_px": 18}, "18 is not a multiple of .* 4 pixels; take 16 or 20"),
        ({"context_length": 2}, "greater than or equal to 3"),
        ({"image_tokens": {"name": "grid"}, "model": {"architecture": RESNET}}, "plain ViT"),
        (
            {"image_tokens": {"name": "grid"}, "model": {"architecture": WINDOWS}},
            "swin_tiny.* is none",
        ),
        (
            {"image_px": 112, "model": {"architecture": TIMM}},
            "vit_tiny_patch16_224.* 224 pixels alone",
        ),
        ({"text_tokens": {"name": "noun"}}, "syntax"),
        (
            {
                "text_tokens": {"name": "syntax"},
                "model": {"architecture": FINE, "text": {"kind": "features", "width": 8}},
            },
            "reads features of whole texts",
        ),
        ({"learn_positions": True}, "learn_positions is for the fixed positions"),
        (
            {"phases": [{"epochs": 1}, {"epochs": 1, "positions": "regenerate"}], "epochs": 2},
            r"phases\[1\].*learned",
        ),
        (
            {"phases": [{"epochs": 1}, {"epochs": 2}], "epochs": 4},
            "epochs is 4, and the phases are 3 epochs together",
        ),
        ({"phases": [{"epochs": 1, "image_px": 10}], "epochs": 1}, r"phases\[0\]: image_px 10"),
        (
            {
                "image_tokens": {"name": "grid"},
                "model": {
                    "architecture": {
                        **FINE,
                        "vision_cfg": {**FINE["vision_cfg"], "patch_dropout": 0.5},
                    }
                },
            },
            "patch_dropout",
        ),
    ],
)
def test_tokens_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        make_config(**QUICK | changes)


def test_phases_say_how_long_a_run_is():
    settings = make_config(**QUICK).model_dump(mode="json")
    del settings["epochs"]
    config = type(make_config()).model_validate(
        {**settings, "phases": [{"epochs": 1.5}, {"epochs": 2}]}
    )
    assert config.epochs == 3.5
    assert type(config).model_validate_json(config.model_dump_json()) == config
