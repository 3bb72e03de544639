"""Nearest neighbours in a queue. Oracles: loops in tests/oracles/supervision.py, identities, one rank against more."""

import math
from collections import deque
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives.term_cases import (
    TWO,
    WIDTH,
    encoded_of,
    neighbours_on_ranks,
    nothing,
    terms_of,
    views,
)
from oracles import supervision
from oracles.contrastive import infonce
from oracles.rank_pool import shared_pool
from torch.nn.functional import normalize

from neuclip.objectives.terms.config import Views
from neuclip.objectives.terms.neighbours import image_to_neighbour

CASES = Path(__file__).with_name("term_cases.py")
TAU = torch.tensor(0.2, dtype=torch.float64)


ONE = Views(["main"], ["main"])


def terms(queue, known=ONE, **more):
    return terms_of(known=known, near={"name": "neighbours", "weight": 1.0, "queue": queue, **more})


def unit(count, seed=5):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, WIDTH, generator=draw, dtype=torch.float64), dim=1)


def filled(queue, rows, **more):
    made = terms(queue, **more)
    made._terms["near"].queue.add(rows[None], torch.arange(len(rows)))
    return made


def test_it_is_the_definition_over_all_views():
    rows, (images, texts) = unit(20), views(2, 2)
    found = filled(20, rows, known=TWO).add_to(nothing(), encoded_of(images, texts), TAU).loss
    expected = supervision.neighbours(
        [v.unit.detach() for v in images.values()],
        [v.unit.detach() for v in texts.values()],
        list(rows),
        0.2,
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_of_a_queue_that_holds_the_texts_each_is_its_own_neighbour():
    images, texts = views(1, 1)
    rows = texts["main"].unit.detach()
    made = filled(12, rows)
    own, places, cosine = made._terms["near"]._nearest(rows)
    assert torch.equal(own, rows)
    assert places.tolist() == list(range(12))
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    others = ~torch.eye(12, dtype=torch.bool)
    image, text = images["main"].unit, texts["main"].unit
    to_neighbour = image_to_neighbour(image, own, own, others, TAU)
    assert to_neighbour == image_to_neighbour(image, text, text, others, TAU)
    back = image_to_neighbour(own, image, image, others, TAU)
    expected = infonce(image, text, TAU)
    torch.testing.assert_close((to_neighbour + back) / 2, expected, rtol=1e-12, atol=0)


def test_no_gradient_reaches_the_texts_through_their_neighbours():
    images, texts = views(1, 1)
    filled(12, unit(12)).add_to(nothing(), encoded_of(images, texts), TAU).loss.backward()
    assert texts["main"].unit.grad is None
    assert images["main"].unit.grad.abs().sum() > 0


def test_if_all_have_one_neighbour_the_loss_is_ln_of_the_batch_and_the_entropy_0():
    images, texts = views(1, 1)
    found = filled(3, unit(1).expand(3, -1)).add_to(nothing(), encoded_of(images, texts), TAU)
    assert found.loss.item() == pytest.approx(math.log(12), rel=1e-15)
    assert found.metrics["term_near_entropy"] == 0
    own = filled(12, texts["main"].unit.detach())
    assert own.add_to(nothing(), encoded_of(images, texts), TAU).metrics[
        "term_near_entropy"
    ].item() == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.lists(st.integers(1, 17), min_size=1, max_size=8))
def test_the_queue_is_first_in_first_out_across_its_wrap(capacity, batches):
    """Nothing is lost when a batch does not divide it."""
    made, expected, seen = terms(capacity)._terms["near"].queue, deque(maxlen=capacity), 0
    for size in batches:
        rows = unit(size, seed=seen)
        made.add(rows[None], torch.arange(seen, seen + size))
        expected.extend(rows.tolist())
        seen += size
    (held,), _ = made.held()
    assert sorted(held.tolist()) == sorted(expected)
    assert made.is_full == (seen >= capacity)


def test_it_is_0_and_costs_no_gradient_until_the_queue_is_full():
    made, zero = terms(20), nothing().loss
    images, texts = views(1, 1)
    first = made.add_to(nothing(), encoded_of(images, texts), TAU)
    assert first.loss == zero
    assert not first.loss.requires_grad
    second = made.add_to(nothing(), encoded_of(images, texts), TAU)  # 12 of 20 before it
    assert second.loss == zero
    third = made.add_to(nothing(), encoded_of(images, texts), TAU)
    assert third.loss > 0


def test_both_lookups_see_the_queue_before_the_step_and_it_takes_the_main_view():
    rows, (images, texts) = unit(12), views(1, 2)
    made = filled(12, rows)
    made.add_to(nothing(), encoded_of(images, texts), TAU)
    (held,), ids = made._terms["near"].queue.held()
    assert torch.equal(held, texts["main"].unit.detach())
    assert ids.tolist() == list(range(12))


def test_in_evaluation_mode_the_queue_stays():
    rows = unit(12)
    made = filled(12, rows).eval()
    made.add_to(nothing(), encoded_of(*views(1, 1)), TAU)
    assert torch.equal(made._terms["near"].queue.held()[0][0], rows)


def test_the_queue_is_saved_whole_and_taken_back():
    made, other = filled(20, unit(13)), terms(20)
    other.load_whole_state(made.whole_state())
    for one, two in zip(
        made._terms["near"].queue.held(), other._terms["near"].queue.held(), strict=True
    ):
        assert torch.equal(one, two)
    more = unit(11, seed=9)
    for each in (made, other):
        each._terms["near"].queue.add(more[None], torch.arange(11))
    assert torch.equal(
        made._terms["near"].queue.contrasts_SMD, other._terms["near"].queue.contrasts_SMD
    )


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_have_one_queue_and_the_steps_of_one(ranks):
    """20 steps over a queue that wraps; its batches do not divide it."""
    expected = neighbours_on_ranks()
    for answer in shared_pool().run(ranks, CASES, "neighbours_on_ranks"):
        assert answer.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(answer[name], value, rtol=1e-6, atol=1e-9)
