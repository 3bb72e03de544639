"""Masked next-token prediction. Oracle: the library's own head called token by token."""

import pytest
import torch
from generation.local_folders import text_model
from made.text_encoders import encoder, llama
from transformers import AutoModelForCausalLM
from tuning.test_tune import PAIRS

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import silent
from neuclip.text_encoder.tune_config import TuneConfig
from neuclip.tuning.warm_up import _batch, hidden_token_loss, warm_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text_model(tmp_path_factory.mktemp("lm") / "model")


def config(**fields):
    return TuneConfig(warm_up={"steps": 30, "batch": 6, "lr": 3e-3, **fields})


def test_a_hidden_token_is_guessed_from_the_state_before_it(folder):
    made = encoder(folder)
    tuning = config()
    batch, is_hidden, blank = _batch(made, tuning.warm_up, PAIRS, 0, 1)
    assert is_hidden.any()
    assert not (is_hidden & ~batch.is_pooled).any()
    whole = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.where(is_hidden, blank, batch.ids)
    total, count = 0.0, 0
    for row in range(len(ids)):
        length = int(batch.is_text[row].sum())
        mask = torch.ones(1, 1, length, length, dtype=torch.bool)
        logits = whole(input_ids=ids[row : row + 1, :length], attention_mask=mask).logits[0]
        for place in is_hidden[row].nonzero().flatten().tolist():
            chances = logits[place - 1].detach().double().softmax(dim=0)
            total -= float(chances[batch.ids[row, place]].log())
            count += 1
    found = hidden_token_loss(made, whole.lm_head, batch, is_hidden, blank)
    assert float(found.detach()) == pytest.approx(total / count, rel=1e-4)


@pytest.mark.slow
def test_it_lowers_its_loss_and_leaves_a_model_without_matrices_beside_it(folder):
    made = encoder(folder)
    losses = warm_up(made, config(), PAIRS, str(folder), seed=1, progress=silent)
    assert losses[-1] < losses[0]
    assert not any("lora" in name for name in made.model.state_dict())
    assert warm_up(made, TuneConfig(), PAIRS, str(folder), seed=1, progress=silent) == []


def test_a_folder_without_a_head_is_refused(tmp_path):
    bare = llama(tmp_path)
    with pytest.raises(ConfigError, match="lack it; take the folder of the whole language model"):
        warm_up(encoder(bare), config(), PAIRS, str(bare), seed=1, progress=silent)
