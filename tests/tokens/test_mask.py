"""Masked tokens. Oracle: open_clip's own tokenizer, and rates over many draws."""

import open_clip
import pytest
import torch
from towers.hub_folders import CLIP_WITH_WORDS, tokenizer_folder

from neuclip.loading.visits import Visit
from neuclip.tokens.mask import TokenMask
from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers

SOT, EOT = 49406, 49407
TEXTS = ["a red car on a road", "cat", "", "! ! !", "a dog " * 60]


def visits(count, epoch=0):
    return [Visit(3, epoch, number) for number in range(count)]


@pytest.fixture(scope="module")
def tokenize():
    return open_clip.get_tokenizer("ViT-B-32", context_length=20)


def test_specials_are_never_chosen_and_the_rest_stays(tokenize):
    tokens = tokenize(TEXTS)
    mask = TokenMask(1.0, tokenize)
    hidden, masked = mask(tokens, visits(len(TEXTS)), "main")
    content = (tokens != SOT) & (tokens != EOT)
    ends = (tokens == EOT).int().argmax(dim=1)
    content &= torch.arange(20) < ends[:, None]
    assert sorted(masked.places.tolist()) == content.flatten().nonzero().flatten().tolist()
    assert torch.equal(masked.ids, tokens.flatten()[masked.places])
    assert torch.equal(hidden[~content], tokens[~content])
    assert torch.equal(torch.where(hidden < 0, ~hidden, hidden)[~content], tokens[~content])
    assert hidden.argmax(dim=1).tolist() == ends.tolist()  # where open_clip pools
    assert hidden.max() == EOT


def test_rates(tokenize):
    texts = ["a red car on a long road in the rain with two dogs"] * 4000
    tokens = tokenize(texts)
    hidden, masked = TokenMask(0.15, tokenize)(tokens, visits(4000), "main")
    content = 4000 * 13
    assert len(masked.places) / content == pytest.approx(0.15, abs=0.006)
    now, was = hidden.flatten()[masked.places], masked.ids
    is_hidden = now < 0
    assert torch.equal(~now[is_hidden], was[is_hidden])
    assert is_hidden.double().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (now == was).double().mean().item() == pytest.approx(0.1, abs=0.015)
    others = now[(now >= 0) & (now != was)]
    assert len(others) / len(now) == pytest.approx(0.1, abs=0.015)
    assert not {SOT, EOT} & set(others.tolist())
    assert len(set(others.tolist())) > len(others) * 0.95


def test_a_visit_has_its_own_masks_whatever_stands_beside_it(tokenize):
    mask, tokens = TokenMask(0.5, tokenize), tokenize(TEXTS)
    together, _ = mask(tokens, visits(5), "main")
    for place in range(5):
        alone, masked = mask(tokens[place : place + 1], [Visit(3, 0, place)], "main")
        assert torch.equal(alone[0], together[place])
        assert (masked.places < 20).all()
    again, _ = mask(tokens, visits(5), "main")
    assert torch.equal(together, again)
    for other in (mask(tokens, visits(5, epoch=1), "main"), mask(tokens, visits(5), "second")):
        assert not torch.equal(together, other[0])


def test_a_text_of_one_word_and_one_of_none(tokenize):
    mask = TokenMask(0.15, tokenize)
    hidden, masked = mask(tokenize(["", ""]), visits(2), "main")
    assert len(masked.places) == 0
    assert torch.equal(hidden, tokenize(["", ""]))
    counts = {len(mask(tokenize(["cat"]), [Visit(0, 0, n)], "main")[1].places) for n in range(40)}
    assert counts == {0, 1}


def test_the_tokens_that_are_given_stay_as_they_are(tokenize):
    tokens = tokenize(TEXTS)
    before = tokens.clone()
    TokenMask(0.5, tokenize)(tokens, visits(5), "main")
    assert torch.equal(tokens, before)


def test_specials_of_a_tokenizer_of_its_own_are_never_drawn(tmp_path):
    config = ModelConfig(
        architecture=CLIP_WITH_WORDS, tokenizer=str(tokenizer_folder(tmp_path / "words"))
    )
    tokenize = create_towers(config, seed=0).tokenize
    specials = set(tokenize.tokenizer.all_special_ids)
    tokens = tokenize(["a red thing"] * 200)
    hidden, masked = TokenMask(1.0, tokenize)(tokens, visits(200), "main")
    assert len(masked.places) == 600
    assert not specials & set(masked.ids.tolist())
    now = hidden.flatten()[masked.places]
    assert not specials & set(now[now >= 0].tolist())
