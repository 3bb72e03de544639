"""Masked tokens. Oracles: loops in tests/oracles/supervision.py, one rank against more."""

from pathlib import Path

import pytest
import torch
from objectives.term_cases import (
    IDS,
    PAIRS,
    TOKENS,
    WIDTH,
    encoded_of,
    masked_text_on_ranks,
    nothing,
    terms_of,
    views,
    with_states,
)
from oracles import supervision
from oracles.rank_pool import shared_pool

from neuclip.objectives.terms.config import MaskedTextConfig, Views

CASES = Path(__file__).with_name("term_cases.py")
TAU = torch.tensor(0.2, dtype=torch.float64)
SECTION = {"name": "masked_text", "weight": 1.0, "view": "shared"}


def encoded(masked):
    return with_states(encoded_of(*views(1, 1)), masked)


def test_it_is_the_definition_and_reaches_states_head_and_nothing_else():
    terms = terms_of(words=SECTION)
    places, ids = torch.tensor([0, 7, 31, 59]), torch.tensor([3, 0, 29, 4])
    batch = encoded((places, ids))
    found = terms.add_to(nothing(), batch, TAU)
    guess = terms._terms["words"].guess
    states = batch.texts["main"].states
    expected = supervision.guesses(
        states.detach(), places.tolist(), ids.tolist(), guess.weight.detach(), guess.bias.detach()
    )
    assert found.loss.item() == pytest.approx(expected, rel=1e-12)
    assert found.metrics["term_words_tokens"] == 4
    found.loss.backward()
    touched = states.grad.flatten(0, 1).abs().sum(dim=1).nonzero().flatten()
    assert touched.tolist() == places.tolist()
    assert guess.weight.shape == (IDS, WIDTH)


def test_no_masked_token_is_a_loss_of_0_with_a_gradient_of_0():
    nobody = torch.zeros(0, dtype=torch.int64)
    terms = terms_of(words=SECTION)
    batch = encoded((nobody, nobody))
    found = terms.add_to(nothing(), batch, TAU)
    found.loss.backward()
    assert found.loss == 0
    assert batch.texts["main"].states.grad.abs().sum() == 0
    assert terms._terms["words"].guess.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_agree_with_one_though_one_of_them_has_no_masked_token(ranks):
    expected = masked_text_on_ranks()
    for answer in shared_pool().run(ranks, CASES, "masked_text_on_ranks"):
        for name, value in expected.items():
            torch.testing.assert_close(answer[name], value, rtol=1e-6, atol=1e-9)


def test_which_view_is_masked():
    known = Views(["main"], ["main", "second"])

    def reads(**fields):
        return MaskedTextConfig(name="masked_text", weight=1, **fields).reads(known, "words")

    assert reads() == Views([], ["words"])
    assert reads(view="shared", text="second") == Views([], ["second"])
    with pytest.raises(ValueError, match=r"terms\.words\.bidirectional .* set view: separate"):
        reads(view="shared", bidirectional=True)
    with pytest.raises(ValueError, match="names view 'third'; views of texts are main, second"):
        reads(text="third")
    with pytest.raises(ValueError, match=r"terms\.second masks a view of its own"):
        MaskedTextConfig(name="masked_text", weight=1).reads(known, "second")
    assert PAIRS * TOKENS == 60
