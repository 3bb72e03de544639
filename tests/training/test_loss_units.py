"""The unit of an objective's loss moves nothing: the trainer takes nats per anchor."""

from dataclasses import replace

import pytest
import torch
from training.micro_batch_cases import make_batch, make_trainer

from neuclip.objectives.neuclip import NeuClip


@pytest.mark.parametrize("clip", [{"kind": "norm", "norm": 0.05}, {"kind": "median", "times": 0.5}])
def test_a_loss_in_another_unit_gives_the_same_bits(monkeypatch, clip):
    """1,024 times the loss, which is exact in floating point, with adam_eps as large as what it is added to."""

    def weights():
        trainer = make_trainer("neuclip", global_batch=16, grad_clip=clip, adam_eps=1e-3)
        told = [trainer.update(make_batch(trainer, step)) for step in range(4)]
        state = {name: tensor.clone() for name, tensor in trainer.model_state().items()}
        return state, [float(done.norm) for done in told], [float(done.loss) for done in told]

    expected = weights()
    forward = NeuClip.forward

    def in_another_unit(self, *batch):
        result = forward(self, *batch)
        return replace(result, loss=1024 * result.loss, scale=1024 * result.scale)

    monkeypatch.setattr(NeuClip, "forward", in_another_unit)
    found = weights()
    assert found[1:] == expected[1:]
    assert all(torch.equal(found[0][name], tensor) for name, tensor in expected[0].items())
