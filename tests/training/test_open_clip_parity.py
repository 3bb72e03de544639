"""Oracle: open_clip's own `main`, from the same weights, fed the same batches."""

import logging
import types

import open_clip
import open_clip_train.main
import pytest
import torch
from training.micro_batch_cases import make_batch, make_trainer

from neuclip.loading.visits import MAIN
from neuclip.towers.folder import save_towers

STEPS, BATCH = 50, 32
LR, DECAY, BETAS, EPS, WARMUP = 2e-3, 0.2, (0.9, 0.98), 1e-6, 10


class Batches:
    """What open_clip's loader is to its loop, over batches that are there."""

    num_batches, num_samples = STEPS, STEPS * BATCH

    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return ((batch.images[MAIN], batch.texts[MAIN]) for batch in self._batches)


@pytest.fixture
def open_clips_losses(monkeypatch, tmp_path):
    """Train with open_clip's `main` and return its loss at every step and its last logit scale."""
    losses, scales = [], []

    class Recorded(open_clip.ClipLoss):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            losses.append(found["contrastive_loss"].item())
            scales.append(kwargs["logit_scale"].item())
            return found

    def run(towers, batches, *arguments):
        save_towers(towers, tmp_path / "start")
        data = {
            "train": types.SimpleNamespace(dataloader=Batches(batches), set_epoch=lambda _: None)
        }
        monkeypatch.setattr(open_clip_train.main, "get_data", lambda *_, **__: data)
        monkeypatch.setattr(open_clip_train.main, "create_loss", lambda _: Recorded())
        open_clip_train.main.main(
            [
                *("--model", f"local-dir:{tmp_path / 'start'}", "--train-data", "given"),
                *("--batch-size", str(BATCH), "--epochs", "1", "--workers", "0"),
                *("--lr", str(LR), "--wd", str(DECAY), "--warmup", str(WARMUP)),
                *("--beta1", str(BETAS[0]), "--beta2", str(BETAS[1]), "--eps", str(EPS)),
                *("--precision", "fp32", "--device", "cpu", "--save-frequency", "0"),
                *("--logs", str(tmp_path / "logs"), "--name", "parity"),
                *arguments,
            ]
        )
        return losses, scales

    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    levels = {name: logging.getLogger(name).level for name in root.manager.loggerDict}
    yield run
    for handler in {*root.handlers} - {*handlers}:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    for name in root.manager.loggerDict:  # open_clip's main makes every logger there is talk
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, ()),
        ({"schedule": "constant"}, ("--lr-scheduler", "const")),
        ({"micro_batch": 8}, ()),
        ({"grad_checkpointing": True}, ("--grad-checkpointing",)),
    ],
    ids=["cosine", "constant", "micro_batch", "grad_checkpointing"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_fifty_losses_are_those_of_open_clips_main(open_clips_losses, settings, arguments):
    trainer = make_trainer(
        global_batch=BATCH,
        dtype=torch.float32,
        lr=LR,
        weight_decay=DECAY,
        betas=BETAS,
        adam_eps=EPS,
        warmup_steps=WARMUP,
        **settings,
    )
    assert trainer.phase.last == STEPS
    batches = [make_batch(trainer, step) for step in range(STEPS)]
    theirs, scales = open_clips_losses(trainer.towers, batches, *arguments)
    ours = [trainer.update(batch).loss.item() for batch in batches]
    assert len(theirs) == STEPS
    assert max(ours) - min(ours) > 0.5  # something was learned
    print(f"largest difference {max(abs(a - b) for a, b in zip(ours, theirs, strict=True)):.1e}")
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert 1 / trainer.objective.temperature.item() == pytest.approx(scales[-1], rel=0.02)
