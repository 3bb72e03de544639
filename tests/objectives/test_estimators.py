"""Oracles: queues, age weights and the offset as loops in float64."""

import pytest
import torch
from oracles import estimators as loops
from oracles.contrastive import neuclip
from oracles.toy import Toy, relative_error
from torch.nn.functional import normalize

from neuclip.objectives.registry import build

EPS, WIDTH, SIZE, CAPACITY = 1e-6, 6, 5, 17


def batches(count, seed=0):
    """Features that drift, with ids that come again."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(2, 1, WIDTH, generator=generator).double()
    for step in range(count):
        centre = centre + 0.2 * torch.randn(2, 1, WIDTH, generator=generator).double()
        noise = torch.randn(2, SIZE, WIDTH, generator=generator).double()
        images, texts = normalize(centre + noise, dim=2)
        yield images, texts, torch.arange(SIZE) + 3 * step % 8


def make(estimator, **fields):
    config = {"name": "neuclip", "eps": EPS, "rho": 6.5, "estimator": estimator, **fields}
    return build(config, feature_dim=WIDTH, num_samples=40).double()


class LoopQueue:
    """The oracle's queue of both sides, newest first."""

    def __init__(self):
        self.rows = [torch.empty(0, WIDTH).double() for _ in range(2)]
        self.ids = torch.empty(0, dtype=torch.int64)

    def push(self, images, texts, ids):
        # The objective's ring takes a batch's rows in order, so that its last row is the newest.
        contrasts = texts.flip(0), images.flip(0)
        for side in (0, 1):
            self.rows[side] = loops.pushed(self.rows[side], contrasts[side], CAPACITY)
        self.ids = loops.pushed(self.ids, ids.flip(0), CAPACITY)

    def values(self, images, texts, ids, tau):
        pairs = (images, texts), (texts, images)
        return [
            loops.queue_values(*pair, self.rows[side], ids, self.ids, tau, EPS)
            for side, pair in enumerate(pairs)
        ]


def test_a_queue_predicts_from_the_pairs_seen_before():
    objective = make({"name": "queue", "num_pairs": CAPACITY})
    queue = LoopQueue()
    tau = objective.temperature.detach()
    for step, (images, texts, ids) in enumerate(batches(7)):
        result = objective(images, texts, ids)
        if step == 0:
            assert result.metrics["ratio_max"] == 1  # nothing is held yet: the batch's own values
        else:
            expected = queue.values(images, texts, ids, tau)
            assert relative_error(list(result.log_normalizers), expected) < 1e-6  # held as float64
            loss = neuclip(images, texts, tau, *expected, EPS, 6.5)
            ratios = result.metrics["ratio_max"]
            if ratios < 20:
                assert relative_error(result.loss, loss) < 1e-6
        queue.push(images, texts, ids)
    found = objective.predict(images, texts, ids)
    assert relative_error(list(found), queue.values(images, texts, ids, tau)) < 1e-6


def test_age_weights_descend_the_conjugate_objective():
    objective = make(
        {"name": "aged_queue", "num_pairs": CAPACITY, "first_block": 3, "inner_lr": 0.05},
        ratio_clamp=float(torch.tensor(6.0).exp()),
    )
    queue, tau = LoopQueue(), objective.temperature.detach()
    blocks = loops.age_blocks(CAPACITY, 3)
    weights = torch.zeros(2, len(blocks)).double()
    squares = torch.zeros_like(weights)
    for step, (images, texts, ids) in enumerate(batches(9)):
        result = objective(images, texts, ids)
        if step:
            pairs = (images, texts), (texts, images)
            for side, pair in enumerate(pairs):
                sums, counts = loops.block_sums(
                    *pair, queue.rows[side], ids, queue.ids, tau, blocks
                )
                values = loops.age_weighted_values(sums, counts, weights[side], EPS)
                assert relative_error(result.log_normalizers[side], values) < 1e-6
                batch_logs = loops.exact_normalizers(*pair, ids, tau, EPS)
                slope = loops.block_weight_gradient(sums, values, batch_logs, weights[side])
                weights[side], squares[side] = loops.rms_step(
                    weights[side], squares[side], slope, rate=0.05, tiny=1e-8
                )
            found = objective.estimator.log_weights_SK
            assert relative_error(found, weights) < 1e-6, step
        queue.push(images, texts, ids)
    assert weights.abs().max() > 0.1


def test_the_offset_is_the_moving_mean_of_the_residual_s_exponential():
    network = {"name": "network", "num_prototypes": 8, "inner_steps": 2, "restart_every": 4}
    plain = make(network, ratio_clamp=None)
    offset = make(network | {"offset_decay": 0.9}, ratio_clamp=None)
    tau, c = plain.temperature.detach(), torch.ones(2).double()
    for images, texts, ids in batches(6):
        bare = plain(images, texts, ids).log_normalizers
        found = offset(images, texts, ids).log_normalizers
        for side, pair in enumerate(((images, texts), (texts, images))):
            assert relative_error(found[side], bare[side] + c[side].log()) < 1e-9
            batch_logs = loops.exact_normalizers(*pair, ids, tau, EPS)
            c[side] = loops.updated_offset(c[side], batch_logs, bare[side], 0.9)
    assert (c.log().abs() > 0.01).all()


@pytest.mark.parametrize(
    "estimator",
    [
        {"name": "network", "num_prototypes": 5000},
        {"name": "queue", "num_pairs": 5000},
        {"name": "aged_queue", "num_pairs": 5000},
    ],
)
def test_capacity_beyond_everything_seen_is_no_harm(estimator):
    objective = make(estimator)
    for images, texts, ids in batches(4):
        result = objective(images, texts, ids)
        assert torch.isfinite(result.loss)
        assert torch.isfinite(torch.stack(result.log_normalizers)).all()


def test_prototypes_of_the_batch_alone():
    toy = Toy()
    config = {"name": "network", "num_prototypes": 8, "source": "batch", "inner_steps": 0}
    objective = build(
        {"name": "neuclip", "estimator": config}, feature_dim=WIDTH, num_samples=1000
    ).double()
    objective(*(f.detach() for f in toy.features()), toy.ids)
    assert sorted(objective.estimator.prototype_ids_M.tolist()) == sorted(toy.ids[4:].tolist())
