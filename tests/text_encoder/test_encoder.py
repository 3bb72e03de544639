"""Features of texts. Oracle: the transformers library called text by text, and means written out."""

import numpy as np
import pytest
import torch
from made.text_encoders import TEXTS, WIDTH, bert, edit, encoder, llama
from transformers import AutoModel, AutoTokenizer

from neuclip.foundation.errors import ConfigError, NumericsError
from neuclip.text_encoder.config import TextEncoderConfig
from neuclip.text_encoder.encoder import TokenBatch, describe_encoder, pack, pooled, unpack


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def classic(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"))


def unit(features):
    return torch.nn.functional.normalize(features, dim=1)


def by_hand(folder, text, *, skipped, direction="causal"):
    """The mean of a text's last states from the library itself, in one call without padding."""
    model, words = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([words(text)["input_ids"]])
    mask = None
    if direction == "both":
        mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state[0]
    return states[skipped:].mean(dim=0).half().numpy()


def test_features_are_means_over_the_texts_own_tokens(causal, classic):
    features, cut = encoder(causal, direction="causal").encode(TEXTS[:3])
    assert features.dtype == np.float16
    assert cut == 0
    for row, text in zip(features, TEXTS, strict=False):
        np.testing.assert_array_equal(row, by_hand(causal, text, skipped=1))
    features, _ = encoder(causal, direction="both").encode(TEXTS[:3])
    for row, text in zip(features, TEXTS, strict=False):
        expected = by_hand(causal, text, skipped=1, direction="both")
        np.testing.assert_allclose(row, expected, atol=2e-3)
    features, _ = encoder(classic).encode(
        TEXTS
    )  # BERT's first token has learnt to stand for the text
    for row, text in zip(features, TEXTS, strict=True):
        np.testing.assert_allclose(row, by_hand(classic, text, skipped=0), atol=2e-3)


@pytest.mark.parametrize("kind", ["causal", "both", "classic", "last"])
def test_padding_changes_no_feature(kind, causal, classic):
    made = {
        "causal": lambda: encoder(causal, direction="causal"),
        "both": lambda: encoder(causal),
        "last": lambda: encoder(causal, pooling="last"),
        "classic": lambda: encoder(classic),
    }[kind]()
    words = made.tokenizer
    tokens = words.of(TEXTS)
    together = unit(made.features(words.batch(tokens)))
    for one, feature in zip(tokens, together, strict=True):
        alone = unit(made.features(words.batch([one])))[0]
        assert (feature - alone).abs().max() < 1e-6
    # What stands in the filling, and how much of it there is, counts for nothing.
    batch = words.batch(tokens)
    wide = [torch.cat([x, x[:, :1].expand(-1, 9)], dim=1) for x in batch]
    for mask in wide[1:]:
        mask[:, -9:] = False
    wide[0][:, -9:] = 77
    assert (unit(made.features(TokenBatch(*wide))) - together).abs().max() < 1e-6


def test_an_instruction_is_read_and_does_not_count(causal):
    made = encoder(causal)
    tokens = made.tokenizer.of(TEXTS[:2], instruction="Find the long caption: ")
    plain = made.tokenizer.of(TEXTS[:2])
    batch = made.tokenizer.batch(tokens)
    for row, (one, bare) in enumerate(zip(tokens, plain, strict=True)):
        counted = batch.ids[row][batch.is_pooled[row]].tolist()
        assert counted == bare.ids[1:]  # neither <s> nor the instruction
        assert one.ids[0] == bare.ids[0]
    with torch.no_grad():
        states = made.model(
            input_ids=batch.ids[:1],
            attention_mask=torch.ones(1, 1, *[batch.ids.shape[1]] * 2).bool(),
        ).last_hidden_state[0]
    first = tokens[0].first_pooled
    expected = states[first : len(tokens[0].ids)].mean(dim=0)
    if batch.is_text[0].all():
        torch.testing.assert_close(made.features(batch)[0], expected)
    assert not torch.allclose(
        made.features(batch)[0], made.features(made.tokenizer.batch(plain))[0]
    )  # it was read


def test_direction_says_whether_the_first_token_sees_the_last(causal):
    for direction in ("both", "causal"):
        made = encoder(causal, direction=direction)
        ids = torch.tensor([[1, 40, 41, 42], [1, 40, 41, 43]])
        everywhere = torch.ones(2, 4, dtype=torch.bool)
        first = torch.zeros_like(everywhere)
        first[:, 0] = True
        one, other = made.features(TokenBatch(ids, everywhere, first))
        assert torch.equal(one, other) == (direction == "causal")


def test_a_model_that_sees_otherwise_than_it_is_told_is_refused(classic):
    with pytest.raises(ConfigError, match="sees the whole text, whatever it is told"):
        encoder(classic, direction="causal")


def test_texts_beyond_the_budget_are_cut_and_counted(causal):
    made = encoder(causal, max_tokens=8)
    features, cut = made.encode(TEXTS)
    assert cut == sum(len(one.ids) > 8 for one in encoder(causal).tokenizer.of(TEXTS)) > 0
    assert all(len(one.ids) <= 8 for one in made.tokenizer.of(TEXTS))
    assert made.tokenizer.of(["cat"])[0].ids == encoder(causal).tokenizer.of(["cat"])[0].ids
    assert features.shape == (4, WIDTH)


def test_the_end_tokens_of_a_cut_text_stay(classic):
    whole = encoder(classic).tokenizer.of(TEXTS)[2].ids
    cut = encoder(classic, max_tokens=8).tokenizer.of(TEXTS)[2].ids
    assert cut == [*whole[:7], whole[-1]]


def test_last_pooling_takes_the_last_token_of_each_text():
    states = torch.arange(24.0).reshape(2, 4, 3)
    is_pooled = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    assert pooled(states, is_pooled, "last").tolist() == [[6, 7, 8], [21, 22, 23]]
    assert pooled(states, is_pooled, "mean").tolist() == [[4.5, 5.5, 6.5], [16.5, 17.5, 18.5]]
    states[0, 3] = torch.nan
    assert torch.isfinite(pooled(states, is_pooled, "mean")).all()


def test_packed_tokens_come_back_as_they_were(causal):
    made = encoder(causal)
    batch = made.tokenizer.batch(made.tokenizer.of(TEXTS))
    for there, back in zip(batch, unpack(pack(batch), made.tokenizer.pad_id), strict=True):
        assert torch.equal(there, back)
    features, _ = made.encode(TEXTS)
    assert torch.equal(made.of_packed(pack(batch)), torch.from_numpy(features))


def test_a_text_has_the_same_feature_in_any_company(causal):
    made = encoder(causal)
    features, _ = made.encode(TEXTS)
    turned, _ = made.encode(TEXTS[::-1])
    np.testing.assert_array_equal(features, turned[::-1])


def test_a_feature_that_is_not_finite_names_its_text(causal):
    made = encoder(causal)
    with torch.no_grad():
        made.model.norm.weight.fill_(1e6)
    with pytest.raises(NumericsError, match=r"gives 2 of 2 texts .*'a red circle"):
        made.encode(TEXTS[:2])


def test_the_fingerprint_is_of_content_and_settings(causal, tmp_path):
    def of(folder, **settings):
        config = TextEncoderConfig(folder=str(folder), max_tokens=128, **settings)
        return describe_encoder(str(folder), config).fingerprint

    base = of(causal)
    (tmp_path / "copy").mkdir()
    for file in causal.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "copy" / "README.md").write_text("not read")
    assert of(tmp_path / "copy") == base
    others = [
        of(causal, pooling="last"),
        of(causal, direction="causal"),
        of(causal, precision="float32"),
    ]
    edit(tmp_path / "copy", "config.json", rms_norm_eps=1e-5)
    others.append(of(tmp_path / "copy"))
    others.append(of(llama(tmp_path / "other", seed=1)))
    assert len({base, *others}) == 6
