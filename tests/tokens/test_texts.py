"""Policies for text tokens. Oracles: the tokenizers' own output, the laws of each policy, CLIPA's example by hand."""

from collections import Counter

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from towers.hub_folders import CLIP_WITH_WORDS, tokenizer_folder

from neuclip.foundation.errors import ConfigError
from neuclip.loading.visits import Visit
from neuclip.tokens.config import TextTokensConfig
from neuclip.tokens.priorities import priority_of
from neuclip.tokens.texts.contents import Contents
from neuclip.tokens.texts.policy import build_text_tokens
from neuclip.tokens.texts.syntax import first_by_priority
from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers

NAMES = ["truncate", "random", "block", "syntax"]
LEDGE = "An orange cat that is sitting on a ledge"
LONG = "a red bird and two small dogs sleep beside an old wooden boat near the harbour wall"


def clip(length):
    return open_clip.get_tokenizer("ViT-B-32", context_length=length)


def tokens(name, tokenizer, texts, *, epoch=0, view="main"):
    policy = build_text_tokens(
        TypeAdapter(TextTokensConfig).validate_python({"name": name}), tokenizer
    )
    return policy(list(texts), [Visit(3, epoch, place) for place in range(len(texts))], view)


def words(tokenizer, row):
    kept = [number for number in row.tolist() if number][1:-1]
    return tokenizer.decode(kept).split()


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_short_texts_are_the_tokenizers_own_output(texts):
    tokenizer = clip(77)
    expected = tokenizer(texts)
    for name in NAMES:
        assert torch.equal(tokens(name, tokenizer, texts), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [3, 4, 8, 16])
def test_long_texts_keep_so_many_tokens_in_order(name, length):
    tokenizer = clip(length)
    content, room = tokenizer.encode(LONG), length - 2
    found = tokens(name, tokenizer, [LONG] * 40)
    assert found.shape == (40, length)
    for row in found.tolist():
        assert (row[0], row[-1]) == (tokenizer.sot_token_id, tokenizer.eot_token_id)
        kept, places = row[1:-1], []
        for number in kept:  # ids of LONG are all different but for `a`
            places.append(content.index(number, places[-1] + 1 if places else 0))
        assert len(kept) == room
        assert places == sorted(set(places))
        if name == "truncate":
            assert kept == content[:room]
        if name == "block":
            assert any(kept == content[n : n + room] for n in range(len(content) - room + 1))
    if name in ("truncate", "syntax"):
        assert len({tuple(row) for row in found.tolist()}) == 1
    else:
        assert len({tuple(row) for row in found.tolist()}) > 3


def test_truncate_is_what_the_tokenizer_does():
    tokenizer = clip(8)
    assert torch.equal(tokens("truncate", tokenizer, [LONG, "a cat"]), tokenizer([LONG, "a cat"]))


def test_block_reaches_the_first_and_the_last_token():
    tokenizer = clip(6)
    content = tokenizer.encode(LONG)
    starts = Counter(
        content.index(row[1]) for row in tokens("block", tokenizer, [LONG] * 400).tolist()
    )
    assert set(starts) == set(range(len(content) - 3))
    assert min(starts.values()) > 8  # 400 / 14 each, standard deviation 5


def test_random_takes_every_token_alike():
    tokenizer = clip(6)
    content = tokenizer.encode(LONG)
    found = Counter(
        number
        for row in tokens("random", tokenizer, [LONG] * 1000).tolist()
        for number in row[1:-1]
    )
    rates = np.array([found[number] for number in content]) / 1000
    assert np.abs(rates - 4 / len(content)).max() < 0.06


@pytest.mark.parametrize(
    ("count", "expected"),
    [(2, "cat ledge"), (3, "orange cat ledge"), (4, "orange cat is ledge")],
)
def test_syntax_by_given_tags(count, expected):
    """CLIPA's example with the tags of a tagger that reads the sentence."""
    tags = ["DT", "JJ", "NN", "WDT", "VBZ", "VBG", "IN", "DT", "NN"]
    kept = first_by_priority(np.array([priority_of(tag) for tag in tags]), count)
    assert " ".join(LEDGE.split()[place] for place in kept) == expected
    tokenizer = clip(count + 2)
    assert words(tokenizer, tokens("syntax", tokenizer, [LEDGE])[0]) == expected.split()


def test_equal_priorities_are_taken_in_order():
    priorities = np.array([4] * 40)
    assert first_by_priority(priorities, 7).tolist() == list(range(7))


def test_a_draw_depends_on_seed_epoch_sample_and_view_alone():
    tokenizer = clip(8)
    texts = [LONG, "a cat", LONG, LONG]
    policy = build_text_tokens(
        TypeAdapter(TextTokensConfig).validate_python({"name": "random"}), tokenizer
    )
    visits = [Visit(3, 0, place) for place in range(4)]
    whole = policy(texts, visits, "main")
    for place in range(4):
        alone = policy([texts[place]], [visits[place]], "main")
        assert torch.equal(alone[0], whole[place])
    others = [
        policy([LONG], [visit], view)[0]
        for visit, view in [
            (Visit(3, 0, 0), "main"),
            (Visit(3, 1, 0), "main"),
            (Visit(3, 0, 9), "main"),
            (Visit(4, 0, 0), "main"),
            (Visit(3, 0, 0), "second"),
        ]
    ]
    assert len({tuple(row.tolist()) for row in others}) == 5


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("kind", ["WordLevel", "BPE"])
def test_a_tokenizer_from_a_folder_keeps_its_specials(tmp_path, kind, strip):
    """CLIPA's own texts: [CLS] first, the separator taken out, zeros behind."""
    folder = tokenizer_folder(tmp_path, kind)
    text_cfg = {**CLIP_WITH_WORDS["text_cfg"], "vocab_size": 128, "context_length": 6}
    if strip:
        text_cfg |= {"tokenizer_kwargs": {"strip_sep_token": True}, "pool_type": "last"}
    config = ModelConfig(
        architecture={**CLIP_WITH_WORDS, "text_cfg": text_cfg}, tokenizer=str(folder)
    )
    tokenizer = create_towers(config, seed=0).tokenize
    contents = Contents(tokenizer)
    assert (contents.room, contents.prefix, contents.suffix) == (4, [1], [0] if strip else [2])
    long = "a photo of a red thing of a photo of a blue thing"
    texts = ["a red thing", long, ""]
    expected = tokenizer(texts)
    for name in ("random", "block"):
        found = tokens(name, tokenizer, texts)
        assert torch.equal(found[[0, 2]], expected[[0, 2]])
        assert found[1, 0] == 1
        assert found[1, -1] == contents.suffix[0]
        assert Counter(found[1, 1:-1].tolist()) <= Counter(contents.ids([long])[0])
    assert torch.equal(contents.full(contents.ids([long])[0][:4]), expected[1])


def test_a_context_without_room_is_refused():
    with pytest.raises(ConfigError, match="no room for content"):
        tokens("random", clip(2), ["a cat"])
    with pytest.raises(ConfigError, match="none of open_clip's two kinds"):
        tokens("block", lambda texts: torch.zeros(len(texts), 4), ["a cat"])
