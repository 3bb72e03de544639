"""DeCLIP's terms in the trainer. Oracles: the run without them, one rank, one whole batch, the run without a stop."""

import signal
from pathlib import Path

import pytest
import torch
from oracles.rank_pool import shared_pool
from pydantic import ValidationError
from training.micro_batch_cases import make_trainer
from training.runs import make_config, metrics, train_here, weights
from training.supervision_cases import ALL, TERMS, VIEWS, flat, make_masked, train

from neuclip.foundation.errors import CheckpointError, ConfigError, StoppedError
from neuclip.index.reader import read_samples
from neuclip.loading.visits import MAIN
from neuclip.towers.model import create_towers
from neuclip.training import loop
from neuclip.training.parts import training_samples

CASES = Path(__file__).with_name("supervision_cases.py")
QUICK = {"loader": {"workers": 0}, "probe": None, "keep_best": 0, "epochs": 1}
SMALL_TERMS = {
    "mvs": {"name": "multi_view", "weight": 0.2},
    "siam": {"name": "image_self", "weight": 0.2, "hidden": 8, "output": 8, "bottleneck": 4},
    "words": {"name": "masked_text", "weight": 0.2},
    "near": {"name": "neighbours", "weight": 0.2, "queue": 40},
}
STRONG = {
    "image_views": {"second": {"augment": {}, "crop_scale": [0.2, 1.0]}},
    "text_views": {"second": {"captions": {"kind": "same", "edit": "eda"}}},
}


@pytest.mark.parametrize("name", ["openclip", "fastclip", "neuclip"])
def test_with_all_weights_0_a_run_is_the_base_objectives_to_the_bit(packed, tmp_path, name):
    plain = make_config(**QUICK, objective={"name": name})
    off = {term: {**section, "weight": 0} for term, section in SMALL_TERMS.items()}
    config = make_config(**QUICK, **STRONG, terms=off, objective={"name": name})
    train_here(tmp_path / "plain", packed, plain)
    train_here(tmp_path / "off", packed, config)
    assert weights(tmp_path / "plain") == weights(tmp_path / "off")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openclip", "fastclip", "neuclip"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_take_the_steps_of_one_over_20_steps_while_the_queue_wraps(name, ranks):
    settings = {"name": name, "global_batch": 16}
    expected = train(settings)
    for answer in shared_pool().run(ranks, CASES, "train", settings):
        require_same(answer, expected)


@pytest.mark.parametrize("settings", [{"micro_batch": 4}, {"grad_checkpointing": True}])
def test_micro_batches_and_checkpointing_change_nothing(settings):
    """Heads see the whole batch, so that their batch statistics are those of the whole batch."""
    base = {"name": "neuclip", "global_batch": 16}
    require_same(train({**base, **settings}, 4), train(base, 4))


@pytest.mark.parametrize(
    "settings",
    [{}, {"parallel": "fsdp"}, pytest.param({"micro_batch": 4}, marks=pytest.mark.slow)],
)
def test_two_ranks_under_each_layout(settings):
    expected = train({"name": "neuclip", "global_batch": 16, "ema_decay": 0.5}, 4)
    asked = {"name": "neuclip", "global_batch": 16, "ema_decay": 0.5, **settings}
    answers = shared_pool().run(2, CASES, "train", asked, 4)
    for answer in answers:
        require_same(answer, expected, with_model=answer is answers[0])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # torch's own look at what it compiles
def test_compiled_blocks_take_the_same_steps():
    base = {"name": "openclip", "global_batch": 16}
    require_same(train({**base, "compile": True}, 3), train(base, 3), atol=1e-6)


def require_same(found, expected, *, with_model=True, atol=1e-9):
    torch.testing.assert_close(
        torch.stack(found["losses"]), torch.stack(expected["losses"]), rtol=1e-6, atol=atol
    )
    parts = ("terms", "model") if with_model else ("terms",)
    for part in parts:
        one, other = flat(found[part]), flat(expected[part])
        assert one.keys() == other.keys()
        for name, value in other.items():
            torch.testing.assert_close(one[name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_every_part_is_told_and_trained():
    trainer = make_trainer("neuclip", global_batch=16, warmup_steps=0, **ALL)
    before = {name: p.detach().clone() for name, p in trainer.terms.named_parameters()}
    told = [trainer.update(make_masked(trainer, step)).metrics for step in range(4)]
    trainer.settle()
    assert {f"term_{name}_loss" for name in TERMS} | {"objective_loss"} <= told[0].keys()
    assert told[0]["term_near_loss"] == told[1]["term_near_loss"] == 0 < told[3]["term_near_loss"]
    for name, parameter in trainer.terms.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_masked_token_is_the_mask_and_sees_the_right_side_only_if_asked():
    """Right context reaches an earlier place in a tower that reads from left to right only when it is bidirectional."""
    trainer = make_trainer("openclip", global_batch=8)
    tokens = trainer.towers.tokenize(["a red car on a road"])
    other = tokens.clone()
    other[0, 5] = 1000
    mask = torch.nn.Parameter(torch.ones(16).double(), requires_grad=True)
    for is_bidirectional in (False, True):

        def states(rows, both=is_bidirectional):
            return trainer.towers.text_states(rows, mask=mask, is_bidirectional=both)[1]

        hidden = tokens.clone()
        hidden[0, 3] = ~hidden[0, 3]
        assert not torch.equal(states(hidden)[0, 3], states(tokens)[0, 3])
        seen = (states(tokens)[0, 3] - states(other)[0, 3]).abs().max()
        assert (seen > 1e-9) == is_bidirectional
        beyond = tokens.clone()
        beyond[0, 11] = 77  # after the end of the text
        torch.testing.assert_close(states(tokens)[0, 3], states(beyond)[0, 3], rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(states(hidden)[0, 3].square().sum(), mask)
        assert gradient.abs().sum() > 0
    plain = trainer.towers.encode_text(tokens)
    torch.testing.assert_close(trainer.towers.text_states(tokens, mask=mask)[0], plain)


def test_heads_are_in_checkpoints_and_not_in_what_is_published(packed, tmp_path):
    config = make_config(**QUICK, **STRONG, terms=SMALL_TERMS)
    train_here(tmp_path / "with", packed, config)
    train_here(tmp_path / "without", packed, make_config(**QUICK))
    from safetensors.torch import load_file

    def names(run, file):
        last = sorted((tmp_path / run / "checkpoints").glob("step-*"))[-1]
        return set(load_file(last / file))

    published = "open_clip_model.safetensors"
    assert names("with", published) == names("without", published)
    own = {name for name in names("with", "state.safetensors") if name.startswith("terms")}
    assert any("guess.weight" in name for name in own)
    assert any("queue.contrasts" in name for name in own)


def test_a_run_with_every_term_resumes_to_the_same_bits(packed, tmp_path, monkeypatch):
    config = make_config(**{**QUICK, "epochs": 2}, **STRONG, terms=SMALL_TERMS, global_views="all")
    train_here(tmp_path / "whole", packed, config)
    line = metrics(tmp_path / "whole")[-1]
    total = line["objective_loss"] + sum(0.2 * line[f"term_{name}_loss"] for name in SMALL_TERMS)
    assert line["loss"] == pytest.approx(total, rel=1e-5)
    sound = loop._Run._step

    def step(self, batch):
        if self.trainer.step == 7 and not self.begun_at:
            signal.raise_signal(signal.SIGTERM)
        sound(self, batch)

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(StoppedError):
        train_here(tmp_path / "cut", packed, config)
    train_here(tmp_path / "cut", packed, config)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_loading_processes_change_no_mask(packed, tmp_path):
    for workers in (0, 2):
        config = make_config(
            **{**QUICK, "loader": {"workers": workers}}, **STRONG, terms=SMALL_TERMS
        )
        train_here(tmp_path / str(workers), packed, config)
    assert weights(tmp_path / "0") == weights(tmp_path / "2")


def test_a_queue_of_another_size_is_refused():
    one, other = (
        make_trainer(
            "openclip",
            global_batch=16,
            terms={"near": {"name": "neighbours", "weight": 1, "queue": size}},
        )
        for size in (20, 30)
    )
    with pytest.raises(CheckpointError, match="does not fit a Neighbours"):
        other.terms.load_whole_state(one.terms.whole_state())


def test_weights_of_the_paper_leave_the_objective_the_rest():
    four = {name: {**section, "weight": 0.2} for name, section in SMALL_TERMS.items()}
    config = make_config(**VIEWS, terms=four, weighting="paper")
    assert config.share_of_objective == pytest.approx(0.4)  # 1 - a - b - g, a of both sides' own
    assert make_config(**VIEWS, terms=four).share_of_objective == 1
    assert make_config(**VIEWS, terms=four, objective_weight=0.4).share_of_objective == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {**VIEWS, "terms": {"mvs": {"name": "multi_view", "weight": 1}}, "weighting": "paper"},
            "leave nothing of 1",
        ),
        (
            {**VIEWS, "objective_weight": 0.5, "weighting": "paper"},
            "stands beside weighting: paper",
        ),
        ({"terms": {"siam": SMALL_TERMS["siam"]}}, r"terms\.siam compares two views"),
        (
            {"terms": {"words": {**SMALL_TERMS["words"], "text": "x"}}},
            r"terms\.words\.text names view 'x'",
        ),
        ({"global_views": "all"}, "global_views: all needs a second view"),
        (
            {"terms": {n: {**SMALL_TERMS["words"], "view": "shared"} for n in ("a", "b")}},
            "two terms mask view main",
        ),
        (
            {**VIEWS, "terms": {"siam": SMALL_TERMS["siam"]}, "freeze": {"image": "all"}},
            r"terms\.siam trains the image",
        ),
        (
            {"terms": {"words": SMALL_TERMS["words"]}, "freeze": {"text": "all"}},
            r"terms\.words trains the text",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        make_config(**changes)


def test_frozen_towers_keep_their_bits_beside_terms_of_the_other(packed, tmp_path):
    terms = {"words": SMALL_TERMS["words"], "near": SMALL_TERMS["near"]}
    config = make_config(**QUICK, terms=terms, freeze={"image": "all"})
    train_here(tmp_path / "run", packed, config)
    from safetensors.torch import load_file

    first, *_, last = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    one, other = (load_file(folder / "open_clip_model.safetensors") for folder in (first, last))
    assert all(torch.equal(one[n], other[n]) for n in one if n.startswith("visual."))
    assert MAIN == "main"


def test_augmentation_is_of_the_views_that_ask_for_it(packed):
    pairs = [(0, number) for number in range(8)]

    def images(**changes):
        terms = {"mvs": SMALL_TERMS["mvs"]}
        config = make_config(**QUICK, terms=terms, **changes)
        return samples_of(packed, config).__getitems__(pairs).images

    plain = images(image_views={"second": {}})
    strong = images(image_views={"second": {"augment": {}}})
    assert torch.equal(plain[MAIN], strong[MAIN])
    assert not torch.equal(plain["second"], strong["second"])
    both = images(augment={}, image_views={"second": {}})
    assert torch.equal(both["second"], strong["second"])
    assert not torch.equal(both[MAIN], plain[MAIN])
    none = images(augment={}, image_views={"second": {"augment": "none"}})
    assert torch.equal(none["second"], plain["second"])


def samples_of(packed, config):
    return training_samples(
        config,
        read_samples(packed.index),
        create_towers(config.model, seed=0),
        shard_uri=packed.shard,
        index_uri=packed.index,
        seed=5,
    )


def test_a_queue_that_no_run_fills_is_refused(packed, tmp_path):
    terms = {"near": {**SMALL_TERMS["near"], "queue": 200}}
    with pytest.raises(ConfigError, match=r"train\.terms\.near\.queue 200 is not full before"):
        train_here(tmp_path, packed, make_config(**QUICK, terms=terms))


def test_no_contrastive_loss_reads_a_text_that_is_masked_separately():
    """Oracle: the same steps of the other terms without it."""
    terms = {"mvs": TERMS["mvs"], "near": {**TERMS["near"], "queue": 8}}
    with_words, without = (
        make_trainer("openclip", global_batch=16, **{**ALL, "terms": {**terms, **more}})
        for more in ({"words": TERMS["words"]}, {})
    )
    for step in range(2):
        told = [t.update(make_masked(t, step)).metrics for t in (with_words, without)]
        if step == 0:
            for name in ("objective_loss", "term_mvs_loss"):
                assert told[0][name] == told[1][name]
    assert with_words.terms._terms["near"].views.texts == [MAIN, "second"]
