"""Steps with frozen weights under some layout over ranks, and what travels between the ranks meanwhile."""

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from training.micro_batch_cases import make_batch, make_trainer
from training.parallel_cases import joined

from neuclip.training.saving import take_snapshot


def train(settings, steps):
    """Take steps; return the weights before and after, who learns, and how many numbers were sent as gradients."""
    with joined() as world:
        trainer = make_trainer(world=world, **settings)
        sent = _count_what_ddp_sends(trainer)
        before = {name: x.clone() for name, x in trainer.model_state().items()}
        for step in range(steps):
            batch = make_batch(trainer, step)
            trainer.update(batch)
        trainer.settle()
        named = dict(trainer.towers.model.named_parameters())
        updated = {id(p) for group in trainer.optimiser.param_groups for p in group["params"]}
        snapshot = take_snapshot(trainer, train_key="k", scheduled=True)
        return {
            "before": before,
            "after": {name: x.clone() for name, x in trainer.model_state().items()},
            "published": snapshot and snapshot.weights,
            "averaged": trainer.average and set(trainer.average.state()),
            "learned": {n: p.numel() for n, p in named.items() if id(p) in updated},
            "with_gradient": {n for n, p in named.items() if p.grad is not None},
            "shared_out": {n for n, p in named.items() if isinstance(p, DTensor)},
            "sent": sent,
        }


def _count_what_ddp_sends(trainer):
    """Note the sizes of the first step's gradient buckets, as DDP hands them to its hook."""
    sent = []
    parallel = trainer._parallel
    if isinstance(parallel, DistributedDataParallel):

        def count(state, bucket):
            del state
            sent.append(bucket.buffer().numel())
            work = torch.distributed.all_reduce(bucket.buffer().div_(2), async_op=True)
            return work.get_future().then(lambda done: done.value()[0])

        parallel.register_comm_hook(None, count)
    return sent
