"""How often a step waits for its device. Oracle: every way in which a number leaves a tensor, counted."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training.micro_batch_cases import make_batch, make_trainer
from training.view_cases import VIEWS, make_views


class Waits(TorchDispatchMode):
    """Counts what a device would be waited for: a scalar that is read, an index by a mask, a copy that blocks."""

    BLOCKING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        name = func.overloadpacket.__name__
        if name in self.BLOCKING or (name.startswith("index") and _has_mask(args)):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(args):
    places = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(place is not None and place.dtype == torch.bool for place in places)


@pytest.fixture
def lists(monkeypatch):
    """The tensors that became lists, which torch does not dispatch."""
    found, tolist = [], torch.Tensor.tolist

    def record(tensor):
        found.append(tensor)
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", record)
    return found


def test_what_counts_as_a_wait():
    with Waits() as waits:
        x = torch.arange(3.0)
        x.sum().item()
        bool(x.any())
        float(x[0])
        x[x > 1]
    assert waits.found == ["_local_scalar_dense"] * 3 + ["index"]


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "openclip"},
        {"name": "neuclip"},
        {"name": "fastclip"},
        {"name": "siglip"},
        {"name": "openclip", "spike_sigmas": 5.0},
        {"name": "openclip", "ema_decay": 0.9},
        {"name": "openclip", "sample_statistics": True},
        {"name": "openclip", "grad_clip": {"kind": "norm", "norm": 1.0}},
        {"name": "openclip", "micro_batch": 8},
    ],
    ids=str,
)
def test_a_step_waits_once_for_its_features_and_reads_one_verdict(settings, lists):
    """The one wait is the objective's: no number of a sample changes before its features are known to be finite."""
    trainer = make_trainer(global_batch=16, dtype=torch.float32, **settings)
    batches = [make_batch(trainer, step) for step in range(22)]
    for batch in batches[:20]:
        trainer.update(batch)
    lists.clear()
    with Waits() as waits:
        for batch in batches[20:]:
            trainer.update(batch)
    assert waits.found == ["_local_scalar_dense"] * 2
    assert len(lists) == 2  # verdicts, which came to main memory a step before


def test_further_views_and_terms_wait_for_nothing(lists):
    trainer = make_trainer(global_batch=16, **VIEWS)
    batches = [make_views(trainer, step) for step in range(2)]
    trainer.update(batches[0])
    lists.clear()
    with Waits() as waits:
        trainer.update(batches[1])
    assert len(waits.found) == 1
    assert len(lists) == 1


@pytest.mark.parametrize("optimiser", ["lamb", "lion", "sgd"])
def test_other_optimisers_wait_for_the_verdict(optimiser, lists):
    """They cannot be held back by a number on the device."""
    trainer = make_trainer(global_batch=16, dtype=torch.float32, optimiser=optimiser)
    batches = [make_batch(trainer, step) for step in range(2)]
    trainer.update(batches[0])
    lists.clear()
    with Waits():
        trainer.update(batches[1])
    assert len(lists) == 2
