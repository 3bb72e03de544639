import io

import pytest
import torch
from PIL import Image
from towers.tiny import COLOURS, picture, tiny_towers

from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.transforms import evaluation_transform


@pytest.fixture(scope="module")
def towers():
    built = tiny_towers()
    built.model.eval()
    return built


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_features_are_those_of_one_at_a_time_and_broken_files_are_told(towers, batch_size):
    """Oracle: Pillow, open_clip's transform and the model, an image at a time."""
    files = [picture(colour) for colour in COLOURS]
    transform = evaluation_transform(towers.preprocess)
    with torch.no_grad():
        expected = torch.cat(
            [towers.image_features(transform(Image.open(io.BytesIO(f)))[None]) for f in files]
        )
    mixed = [b"broken", *files[:4], files[0][:200], *files[4:]]
    features, decoded = encode_images(towers, iter(mixed), batch_size=batch_size)
    assert decoded == [False, True, True, True, True, False, True, True, True]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert features.dtype == torch.float32


def test_texts_are_encoded_in_order(towers):
    texts = [f"a photo of {colour}" for colour in COLOURS]
    with torch.no_grad():
        expected = torch.cat([towers.text_features(towers.tokenize([text])) for text in texts])
    torch.testing.assert_close(
        encode_texts(towers, texts, batch_size=3), expected, rtol=0, atol=1e-5
    )


def test_nothing_encodes_to_nothing(towers):
    assert encode_texts(towers, [], batch_size=2).shape == (0, 32)
    features, decoded = encode_images(towers, [], batch_size=2)
    assert (features.shape, decoded) == ((0, 32), [])
