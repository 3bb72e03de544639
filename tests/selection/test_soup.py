"""Oracles: the mean in float64 of tensors that are read whole, and torch's own running statistics."""

import gc
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from towers.tiny import COLOURS, picture, tiny_towers

from neuclip.selection.soup import cook
from neuclip.towers.config import ModelConfig
from neuclip.towers.encode import encode_images
from neuclip.towers.folder import load_towers, save_towers
from neuclip.towers.model import create_towers

WEIGHTS = "open_clip_model.safetensors"
IMAGES = [picture(colour, seed=n) for n, colour in enumerate(COLOURS)]
RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
}


def folders(tmp_path, make=tiny_towers, count=3):
    found = []
    for seed in range(count):
        found.append(tmp_path / f"step-{seed}")
        save_towers(make(seed), found[-1])
        (found[-1] / "checkpoint.json").write_text(json.dumps({"step": seed}))
        (found[-1] / "state.safetensors").write_bytes(b"not of the model")
    return found


def resnet(seed):
    towers = create_towers(ModelConfig(architecture=RESNET), seed=seed)
    with torch.no_grad():
        for buffer in towers.model.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(seed)))
    return towers


def test_it_is_the_mean_of_all_weights_in_float64(tmp_path):
    parts = folders(tmp_path)
    cook(parts, tmp_path / "soup", images=[], batch_size=4)
    found = load_file(tmp_path / "soup" / WEIGHTS)
    read = [load_file(part / WEIGHTS) for part in parts]
    assert found.keys() == read[0].keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            mean = torch.stack([one[name].double() for one in read]).mean(dim=0)
            torch.testing.assert_close(tensor, mean.to(tensor.dtype), rtol=1e-7, atol=0)
    assert sorted(path.name for path in (tmp_path / "soup").iterdir()) == [
        "open_clip_config.json",
        WEIGHTS,
    ]
    load_towers(tmp_path / "soup")


@pytest.mark.parametrize("make", [tiny_towers, resnet])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_mean_of_a_model_with_itself_is_that_model_to_the_bit(tmp_path, make, count):
    [part] = folders(tmp_path, make, count=1)
    cook([part] * count, tmp_path / "soup", images=IMAGES, batch_size=4)
    found, own = (load_file(folder / WEIGHTS) for folder in (tmp_path / "soup", part))
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())


def test_batch_norms_are_measured_anew_on_images(tmp_path):
    parts = folders(tmp_path, resnet, count=2)
    cook(parts, tmp_path / "soup", images=IMAGES, batch_size=len(IMAGES))
    found = load_towers(tmp_path / "soup")
    seen = {}

    def note(_, inputs, __):
        seen["mean"] = inputs[0].mean(dim=(0, 2, 3))

    layer = found.model.visual.bn1
    layer.register_forward_hook(note)
    encode_images(found, IMAGES, batch_size=len(IMAGES))
    torch.testing.assert_close(layer.running_mean, seen["mean"], rtol=1e-4, atol=1e-5)
    assert layer.num_batches_tracked == 1


def test_ten_models_need_no_more_memory_than_two(tmp_path, monkeypatch):
    size, parts = 2_000_000, []
    for number in range(10):
        parts.append(tmp_path / str(number))
        parts[-1].mkdir()
        save_file(
            {f"layer.{n}": torch.full((size // 8,), float(number)) for n in range(8)},
            parts[-1] / WEIGHTS,
        )
    held, before, double = [], torch_bytes(), torch.Tensor.double

    def counting(tensor):
        held.append(torch_bytes())
        return double(tensor)

    monkeypatch.setattr(torch.Tensor, "double", counting)  # each tensor of the mean begins so
    cook(parts, tmp_path / "soup", images=[], batch_size=4)
    monkeypatch.undo()
    assert max(held) - before < 2 * 4 * size
    assert load_file(tmp_path / "soup" / WEIGHTS)["layer.3"][0] == 4.5


def torch_bytes():
    """Of all tensors that live."""
    return sum(
        one.untyped_storage().nbytes()
        for one in gc.get_objects()
        if issubclass(type(one), torch.Tensor)
    )
