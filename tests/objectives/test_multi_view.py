"""Oracles: InfoNCE as loops, identities that hold for every batch, one rank against two."""

from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives.term_cases import encoded_of, nothing, on_ranks, terms_of, views
from oracles.contrastive import infonce

from neuclip.foundation.errors import CheckpointError
from neuclip.objectives.encoded import View
from neuclip.objectives.registry import build
from neuclip.objectives.terms.config import MultiViewConfig, Views

CASES = Path(__file__).with_name("term_cases.py")
TAU = torch.tensor(0.2, dtype=torch.float64)


def term(encoded, *, pairs="others", tau=TAU, **section):
    known = Views(list(encoded.images), list(encoded.texts))
    terms = terms_of(known=known, mvs={"weight": 1.0, "pairs": pairs, **section})
    return terms.add_to(nothing(), encoded, tau).loss


@pytest.mark.parametrize("pairs", ["others", "all"])
@pytest.mark.parametrize(("num_images", "num_texts"), [(2, 2), (1, 2), (2, 1), (3, 2)])
def test_it_is_the_mean_of_infonce_over_the_pairs_of_views(pairs, num_images, num_texts):
    images, texts = views(num_images, num_texts)
    expected = [
        infonce(images[a].unit, texts[b].unit, TAU)
        for a, b in product(images, texts)
        if pairs == "all" or (a, b) != ("main", "main")
    ]
    found = term(encoded_of(images, texts), pairs=pairs)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-12, atol=0)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_with_both_views_equal_all_pairs_are_clips_loss_to_the_bit(seed):
    images, texts = views(1, 1, seed=seed)
    clip = build(
        {"name": "openclip", "temperature_init": 0.2}, feature_dim=6, num_samples=100
    ).double()
    expected = clip(images["main"].unit, texts["main"].unit, torch.arange(12)).loss
    twice = [{**side, "second": side["main"]} for side in (images, texts)]
    assert term(encoded_of(*twice), pairs="all", tau=clip.temperature) == expected


def test_the_order_of_views_changes_nothing():
    images, texts = views()
    swapped = [{"main": s["second"], "second": s["main"]} for s in (images, texts)]
    found, other = (term(encoded_of(*sides), pairs="all") for sides in ((images, texts), swapped))
    torch.testing.assert_close(found, other, rtol=1e-14, atol=0)


def test_views_can_be_chosen():
    images, texts = views(3, 2)
    found = term(encoded_of(images, texts), images=("third",), texts=("main",))
    expected = infonce(images["third"].unit, texts["main"].unit, TAU)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_total_is_the_weighted_sum_to_the_bit_and_each_part_is_told():
    encoded = encoded_of(*views(3, 2))
    sections = {
        "first": {"weight": 0.3},
        "second": {"weight": 0.45, "pairs": "all"},
        "off": {"weight": 0.0},
    }
    terms = terms_of(objective_weight=0.25, **sections)
    parts = {
        n: term(encoded, pairs=sections[n].get("pairs", "others")) for n in ("first", "second")
    }
    objective = nothing().__class__(torch.tensor(1.7, dtype=torch.float64), None, {"x": 1.0})
    found = terms.add_to(objective, encoded, TAU)
    assert found.loss == 0.25 * objective.loss + 0.3 * parts["first"] + 0.45 * parts["second"]
    assert found.metrics == {
        "x": 1.0,
        "objective_loss": objective.loss,
        "term_first_loss": parts["first"],
        "term_second_loss": parts["second"],
    }
    assert terms.whole_state().keys() == {"first", "second"}


def test_weight_0_computes_nothing():
    """The view that it would read is not even there."""
    encoded = encoded_of(*views(1, 1))
    result = nothing()
    assert terms_of(mvs={"weight": 0}).add_to(result, encoded, TAU) == result
    assert terms_of().add_to(result, encoded, TAU) == result


def test_the_temperature_gets_its_part_of_the_gradient():
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    images, texts = views(1, 2)
    encoded = encoded_of(images, texts)
    term(encoded, tau=tau).backward()
    expected = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    infonce(images["main"].unit.detach(), texts["second"].unit.detach(), expected).backward()
    torch.testing.assert_close(tau.grad, expected.grad, rtol=1e-9, atol=0)


def test_a_sample_that_is_in_the_batch_twice_is_no_negative_of_itself():
    images, texts = views(1, 2, count=4)
    twin = [
        {n: View(v.raw[[0, 1, 2, 3, 0]], v.unit[[0, 1, 2, 3, 0]]) for n, v in side.items()}
        for side in (images, texts)
    ]
    found = term(encoded_of(*twin, torch.tensor([0, 1, 2, 3, 0])))
    assert torch.isfinite(found)
    # Of the other anchors each sees the twin as a second negative; the twins see what one of them alone saw.
    pairs = [images["main"].unit, texts["second"].unit]
    logits = pairs[0] @ pairs[1].T / TAU
    losses = []
    for own, side in ((logits, 0), (logits.T, 1)):
        del side
        columns = own[:, [0, 1, 2, 3, 0]]
        for row, weight in zip(range(4), (2, 1, 1, 1), strict=True):
            others = [c for c in range(5) if [0, 1, 2, 3, 0][c] != row]
            terms = torch.stack([own[row, row], *(columns[row, c] for c in others)])
            losses += [-(own[row, row] - torch.logsumexp(terms, 0))] * weight
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("pairs", ["others", "all"])
def test_two_ranks_agree_with_one(ranks, pairs):
    expected = on_ranks(pairs)
    answers = ranks.run(2, CASES, "on_ranks", pairs)
    for answer in answers:
        torch.testing.assert_close(answer["loss"], expected["loss"], rtol=1e-6, atol=0)
        torch.testing.assert_close(answer["tau"], expected["tau"], rtol=1e-6, atol=0)
    for name, gradient in expected["gradients"].items():
        joined = torch.cat([answer["gradients"][name] for answer in answers])
        torch.testing.assert_close(joined, gradient, rtol=1e-6, atol=1e-9)


def test_the_state_of_other_terms_is_refused():
    state = terms_of(mvs={"weight": 1.0}).whole_state()
    with pytest.raises(CheckpointError, match=r"has terms \['mvs'\], the recipe \['other'\]"):
        terms_of(other={"weight": 1.0}).load_whole_state(state)
    with pytest.raises(CheckpointError, match="has terms none"):
        terms_of(other={"weight": 1.0}).load_whole_state({})


def test_a_term_without_a_second_view_says_so():
    config = MultiViewConfig(name="multi_view", weight=0.2)
    with pytest.raises(ValueError, match=r"terms\.mvs needs a second view"):
        config.reads(Views(["main"], ["main"]), "mvs")
