"""Oracle: what every collective gives, by hand and by one process."""

from pathlib import Path

import pytest
import torch

from neuclip.distributed import collectives
from neuclip.distributed.world import World

CASES = Path(__file__).with_name("collective_cases.py")


@pytest.mark.parametrize("size", [2, 3])
def test_collectives_by_hand(ranks, size):
    found = ranks.run(size, CASES, "every_collective")
    mean = (size - 1) / 2
    for rank, answers in enumerate(found):
        assert answers["place"] == (rank, size, rank, "cpu", rank == 0)
        expected = torch.arange(size).repeat_interleave(2).float()[:, None].expand(-1, 3)
        assert torch.equal(answers["gathered"], expected)
        assert answers["gathered_ids"].tolist() == [v for r in range(size) for v in (r, 10 + r)]
        assert answers["sum"].item() == size * (size + 1) / 2
        assert answers["is_same_tensor"]
        assert answers["mean"].item() == mean
        assert answers["averaged"].tolist() == [mean, 1.0]
        assert answers["without_gradient"] is None
        assert answers["objects"] == [{"rank": other} for other in range(size)]


@pytest.mark.parametrize("size", [2, 3])
def test_gather_gives_each_row_the_gradient_of_the_summed_losses(ranks, size):
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(size, 6, 4, generator=generator, dtype=torch.float64)
    found = ranks.run(size, CASES, "gradient_of_gather", rows, weights)
    for gathered, _ in found:
        assert torch.equal(gathered, rows)
    expected = 2 * weights.sum(dim=0) * rows
    torch.testing.assert_close(torch.cat([grad for _, grad in found]), expected)


def test_unequal_batches_are_named_on_every_rank(ranks):
    for message in ranks.run(2, CASES, "unequal_shapes"):
        assert "rank 0: (3, 2)" in message
        assert "rank 1: (4, 2)" in message


def test_one_process_is_the_identity():
    world = World.single()
    tensor = torch.tensor([[1.0, 2.0]], requires_grad=True)
    assert collectives.gather_with_gradient(tensor, world) is tensor
    gathered = collectives.all_gather(tensor, world)
    assert torch.equal(gathered, tensor)
    assert not gathered.requires_grad
    values = torch.tensor([3.0])
    assert collectives.all_reduce_sum_(values, world) is values
    assert collectives.all_reduce_mean_(values, world).item() == 3.0
    assert collectives.gather_objects("a", world) == ["a"]
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([2.0])
    collectives.average_gradients([parameter], world)
    assert parameter.grad.item() == 2.0
    collectives.require_equal_shapes(tensor, world)
    collectives.barrier(world)
