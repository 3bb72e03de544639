"""SimSiam and SimCLR. Oracles: loops in tests/oracles/supervision.py, identities, one rank against more."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives.term_cases import encoded_of, image_self_on_ranks, nothing, terms_of, views
from oracles import supervision
from oracles.rank_pool import shared_pool
from torch.nn.functional import normalize

from neuclip.distributed.world import World
from neuclip.objectives.encoded import View
from neuclip.objectives.terms.config import ImageSelfConfig, Views
from neuclip.objectives.terms.image_self import simclr, simsiam

CASES = Path(__file__).with_name("term_cases.py")
TAU = torch.tensor(0.2, dtype=torch.float64)


def tensors(count, seed=0, rows=7):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 5, generator=draw, dtype=torch.float64) for _ in range(count)]


def test_simsiam_is_the_definition():
    found, expected = simsiam(*tensors(4)), supervision.simsiam(*tensors(4))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_equal_vectors_give_minus_1_opposite_ones_plus_1():
    one, two = tensors(2)
    torch.testing.assert_close(simsiam(two, one, one, two), torch.tensor(-1.0).double())
    torch.testing.assert_close(simsiam(-two, -one, one, two), torch.tensor(1.0).double())


@settings(deadline=None)
@given(st.integers(0, 500), st.floats(0.01, 100), st.floats(0.01, 100))
def test_it_is_in_range_symmetric_and_blind_to_length(seed, first, second):
    p1, p2, z1, z2 = tensors(4, seed)
    found = simsiam(p1, p2, z1, z2)
    assert -1 <= found <= 1
    torch.testing.assert_close(simsiam(p2, p1, z2, z1), found, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(
        simsiam(first * p1, second * p2, second * z1, first * z2), found, rtol=1e-9, atol=1e-12
    )


def test_the_other_view_gets_no_gradient():
    p1, p2, z1, z2 = (x.requires_grad_() for x in tensors(4))
    simsiam(p1, p2, z1, z2).backward()
    assert z1.grad is None
    assert z2.grad is None
    assert p1.grad.abs().sum() > 0 < p2.grad.abs().sum()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_simclr_is_the_definition(temperature):
    one, two = tensors(2)
    is_own = torch.eye(7, dtype=torch.bool)
    found = simclr(one, two, is_own, temperature, World.single())
    expected = supervision.nt_xent(one, two, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_views_of_one_sample_are_no_negatives_of_each_other():
    """A sample that is in the batch twice changes the loss of the others alone."""
    one, two = tensors(2, rows=3)
    ids = torch.tensor([0, 1, 0])
    same = simclr(one, two, ids[:, None] == ids, 0.5, World.single())
    apart = simclr(one, two, torch.eye(3, dtype=torch.bool), 0.5, World.single())
    assert torch.isfinite(same)
    assert same < apart


@pytest.mark.parametrize("method", ["simsiam", "simclr"])
def test_the_term_is_its_function_of_its_heads(method):
    section = {"name": "image_self", "method": method, "weight": 0.5, "hidden": 8, "output": 4}
    terms = terms_of(siam={**section, "bottleneck": 3})
    images, texts = views(2, 1)
    encoded = encoded_of(images, texts)
    found = terms.add_to(nothing(), encoded, TAU)
    heads = terms._terms["siam"].heads
    one, two = (heads["project"](view.raw) for view in images.values())
    if method == "simsiam":
        expected = simsiam(heads["predict"](one), heads["predict"](two), one, two)
    else:
        expected = simclr(one, two, torch.eye(12, dtype=torch.bool), 0.1, World.single())
    assert found.loss == 0.5 * expected
    assert 0 < found.metrics["term_siam_spread"] <= 1
    found.loss.backward()
    assert all(p.grad is not None for p in terms.parameters())
    assert all(view.unit.grad.abs().sum() > 0 for view in images.values())


def test_a_batch_of_copies_is_finite_and_has_no_spread():
    images, texts = views(2, 1)
    copies = {
        n: View(v.raw[:1].expand(12, -1), normalize(v.raw[:1].expand(12, -1), dim=1))
        for n, v in images.items()
    }
    terms = terms_of(siam={"name": "image_self", "weight": 1.0, "hidden": 8, "output": 4})
    found = terms.add_to(nothing(), encoded_of(copies, texts), TAU)
    assert torch.isfinite(found.loss)
    assert found.metrics["term_siam_spread"] < 1e-3


@pytest.mark.parametrize("method", ["simsiam", "simclr"])
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_agree_with_one(ranks, method):
    expected = image_self_on_ranks(method)
    for answer in shared_pool().run(ranks, CASES, "image_self_on_ranks", method):
        for name, value in expected.items():
            torch.testing.assert_close(answer[name], value, rtol=1e-6, atol=1e-9)


def test_it_needs_two_views_of_images():
    config = ImageSelfConfig(name="image_self", weight=1)
    with pytest.raises(ValueError, match=r"terms\.siam compares two views .* it has main alone"):
        config.reads(Views(["main"], ["main"]), "siam")
    assert config.reads(Views(["main", "a", "b"], ["main"]), "siam") == Views(["main", "a"], [])
    named = ImageSelfConfig(name="image_self", weight=1, images=("a", "b"))
    assert named.reads(Views(["main", "a", "b"], ["main"]), "siam") == Views(["a", "b"], [])
    with pytest.raises(ValueError, match="names view 'b'; views of images are main, a"):
        named.reads(Views(["main", "a"], ["main"]), "siam")
    with pytest.raises(ValueError, match="it has a, a alone"):
        ImageSelfConfig(name="image_self", weight=1, images=("a", "a")).reads(
            Views(["main", "a"], ["main"]), "siam"
        )
