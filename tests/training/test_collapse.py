"""The alarm for features that have become the same. Oracles: a planted collapse, and healthy runs."""

import json
import logging
import math

import pytest
import torch
from torch.nn.functional import normalize
from training.runs import EVERY_TERM, SMALL_NETWORK, make_config, metrics, train_here

from neuclip.foundation.errors import CollapseError
from neuclip.objectives.encoded import Encoded, View
from neuclip.objectives.objective import ObjectiveResult
from neuclip.training.collapse import CollapseAlarm, signs_of
from neuclip.training.collapse_config import CollapseConfig
from neuclip.training.encoders import Encoders

QUICK = {"loader": {"workers": 0}, "probe": None, "keep_best": 0, "epochs": 2}
OBJECTIVES = {
    "openclip": {"name": "openclip"},
    "fastclip": {"name": "fastclip"},
    "sogclr": {"name": "sogclr"},
    "siglip": {"name": "siglip"},
    "neuclip": {"name": "neuclip", "estimator": SMALL_NETWORK},
}
HEALTHY = {
    f"{name} {lr} {'every term' if terms else 'alone'}": {"objective": section, "lr": lr, **terms}
    for name, section in OBJECTIVES.items()
    for lr in (1e-4, 1e-3)
    for terms in ({}, EVERY_TERM)
}
"""20 runs."""
QUICK_ONES = ("openclip 0.001 alone", "neuclip 0.001 every term")


def alarm(**fields):
    return CollapseAlarm(CollapseConfig(lines=3, **fields), [range(6), range(100, 105)])


def line(step, **signs):
    return {"step": step, "lr": 1e-3, "loss": 1.0, **signs}


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"image_spread": 0.01}, {"image_spread": 0.3}),
        ({"text_spread": 0.0}, {"text_spread": 0.06}),
        ({"term_siam_spread": 0.01}, {"term_siam_spread": 0.9}),
        ({"term_near_entropy": 0.02}, {"term_near_entropy": 0.4}),
        ({"infonce_share": 1.0}, {"infonce_share": 0.9}),
    ],
)
def test_a_sign_in_so_many_lines_in_a_row_sets_it_off_once(bad, good):
    own = alarm()
    assert not any(own.hear(line(step, **bad)) for step in (1, 3, 5))  # the warm-up
    heard = [
        own.hear(line(step, **signs)) for step, signs in enumerate([bad, bad, good, bad, bad], 6)
    ]
    assert not any(heard)
    assert own.message == ""
    assert own.hear(line(11, **bad))
    [(name, value)] = bad.items()
    assert f"at step 11: {name} {value:.3g} in 3 lines" in own.message
    assert not own.hear(line(12, **bad))
    other = alarm()  # a later phase warms up anew
    assert not any(other.hear(line(step, **bad)) for step in (98, 99, *range(100, 105), 106))


def test_lines_that_were_written_before_a_stop_count():
    own = alarm()
    own.hear_all([json.dumps(line(step, image_spread=0.0)) + "\n" for step in (6, 7)])
    assert own.hear(line(8, image_spread=0.0))


def test_what_is_not_known_is_no_sign():
    own = alarm()
    for step in range(6, 20):
        assert not own.hear(line(step, infonce_share=math.nan, image_spread=math.nan))
        assert not own.hear({"step": step, "passed_over": 1, "image_spread": 0.0})


def test_the_signs_are_their_definitions():
    draw = torch.Generator().manual_seed(0)
    same = normalize(torch.ones(8, 4), dim=1)
    apart = torch.eye(4).repeat(2, 1)
    ids = torch.arange(8)
    losses = torch.rand(8, generator=draw)
    encoded = Encoded({"main": View(same, same)}, {"main": View(apart, apart)}, ids, {"main": ids})
    found = signs_of(encoded, ObjectiveResult(losses.sum(), None, {}, losses), global_batch=8)
    assert found["image_spread"] == pytest.approx(0, abs=1e-6)
    assert found["text_spread"].item() == pytest.approx(math.sqrt(3 / 4))
    assert found["infonce_share"].item() == pytest.approx(losses.mean().item() / 2 / math.log(8))
    without = signs_of(encoded, ObjectiveResult(losses.sum(), None, {}), global_batch=8)
    assert without.keys() == {"image_spread", "text_spread"}


def collapse(monkeypatch, *, from_step):
    """Let images become one vector in training, from a step on."""
    sound, calls = Encoders._image, []

    def image(self, pixels, patches):
        view = sound(self, pixels, patches)
        calls.append(1)
        if len(calls) < from_step:
            return view
        raw = view.raw * 1e-4 + torch.ones_like(view.raw)
        return View(raw, normalize(raw, dim=-1))

    monkeypatch.setattr(Encoders, "_image", image)


def test_a_planted_collapse_is_told_in_the_log_the_result_and_the_lines(
    packed, tmp_path, monkeypatch, caplog
):
    collapse(monkeypatch, from_step=9)
    config = make_config(**QUICK, collapse={"lines": 4}, objective={"name": "openclip"})
    with caplog.at_level(logging.WARNING):
        result = train_here(tmp_path / "run", packed, config)
    assert "image_spread" in result.collapse
    assert [r.message for r in caplog.records if "no longer apart" in r.message] == [
        result.collapse
    ]
    assert metrics(tmp_path / "run")[-1]["image_spread"] < 0.01


def test_it_can_end_the_run_which_has_saved(packed, tmp_path, monkeypatch):
    collapse(monkeypatch, from_step=9)
    config = make_config(
        **QUICK, collapse={"lines": 4, "stop": True}, objective={"name": "openclip"}
    )
    with pytest.raises(CollapseError, match=r"image_spread .*saved at step \d+ and stopped"):
        train_here(tmp_path / "run", packed, config)
    last = metrics(tmp_path / "run")[-1]["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{last:08}").is_dir()


@pytest.mark.parametrize(
    "name", [n if n in QUICK_ONES else pytest.param(n, marks=pytest.mark.slow) for n in HEALTHY]
)
def test_healthy_runs_do_not_set_it_off(packed, tmp_path, name):
    config = make_config(**{**QUICK, "epochs": 4}, **HEALTHY[name])
    result = train_here(tmp_path / "run", packed, config)
    assert result.collapse == ""
