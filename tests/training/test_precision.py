"""Oracle: torch's own switches and the types of a block's outputs."""

import pytest
import torch
from training.micro_batch_cases import make_batch, make_trainer

from neuclip.training.layout import is_in_bf16


@pytest.fixture(autouse=True)
def switches_as_before():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(
    ("precision", "is_rounded"), [("tf32", True), ("fp32", False), ("auto", False), ("bf16", False)]
)
def test_only_tf32_rounds_the_inputs_of_float32_products(precision, is_rounded):
    torch.set_float32_matmul_precision("highest" if is_rounded else "high")
    torch.backends.cudnn.allow_tf32 = not is_rounded
    make_trainer(global_batch=8, precision=precision, dtype=torch.float32)
    assert torch.backends.cuda.matmul.allow_tf32 == is_rounded
    assert torch.backends.cudnn.allow_tf32 == is_rounded


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("bf16", torch.bfloat16), ("auto", torch.float32), ("fp32", torch.float32)],
)
def test_what_a_block_computes_in_on_a_cpu(precision, expected):
    trainer = make_trainer(global_batch=8, precision=precision, dtype=torch.float32)
    found = []
    block = trainer.towers.model.visual.transformer.resblocks[0]
    block.mlp.c_fc.register_forward_hook(lambda *call: found.append(call[-1].dtype))
    trainer.update(make_batch(trainer))
    assert found == [expected]
    assert trainer.in_bf16 == (expected == torch.bfloat16)


def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch):
    config = make_trainer(global_batch=8, precision="auto").config
    for has_it in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert is_in_bf16(config, torch.device("cuda")) == has_it
    assert not is_in_bf16(config, torch.device("cpu"))
