"""Oracle: the schedule of restarts by hand, and a run that was never interrupted."""

import pytest
import torch
from oracles.toy import Toy, relative_error
from torch.nn.functional import normalize

from neuclip.foundation.errors import ShapeError
from neuclip.objectives.config import NetworkConfig, NeuClipConfig
from neuclip.objectives.estimators.estimator import Anchors
from neuclip.objectives.registry import build

WIDTH = 6


def batch(step, size=4):
    """Features of the step's pairs, with ids of their own."""
    generator = torch.Generator().manual_seed(100 + step)
    images, texts = normalize(torch.randn(2, size, WIDTH, generator=generator), dim=2)
    return images, texts, torch.arange(size) + 1000 * step


def make(**fields):
    network = {
        name: fields.pop(name) for name in list(fields) if name in NetworkConfig.model_fields
    }
    network = {"num_prototypes": 10, "inner_steps": 0} | network
    section = NeuClipConfig(**fields, estimator=NetworkConfig(**network))
    return build(section, feature_dim=WIDTH, num_samples=1000)


def test_restarts_come_at_step_0_when_enough_pairs_are_there_and_on_schedule():
    objective = make(restart_every=5)
    expected_steps = {0: 4, 2: 10, 5: 10, 10: 10}  # step: prototypes in use from then on
    seen, in_use = [], 0
    for step in range(12):
        seen.append(batch(step))
        before = objective.estimator.prototypes_SMD.clone()
        objective(*seen[-1])
        is_restarted = not torch.equal(before, objective.estimator.prototypes_SMD)
        assert is_restarted == (step in expected_steps), step
        in_use = expected_steps.get(step, in_use)
        assert objective.estimator.num_in_use == in_use
        if is_restarted:
            images, texts, ids = (torch.cat(parts)[-in_use:] for parts in zip(*seen, strict=True))
            found = objective.estimator.prototype_ids_M[:in_use]
            order, expected_order = found.argsort(), ids.argsort()
            assert torch.equal(found[order], ids[expected_order])
            prototypes = objective.estimator.prototypes_SMD[:, :in_use][:, order]
            torch.testing.assert_close(prototypes[0], texts[expected_order])
            torch.testing.assert_close(prototypes[1], images[expected_order])
        objective.advance(step + 1)


def test_a_batch_larger_than_the_prototypes_leaves_its_last_rows():
    objective = make(num_prototypes=3)
    images, texts, ids = batch(0, size=8)
    objective(images, texts, ids)
    order = objective.estimator.prototype_ids_M.argsort()
    assert objective.estimator.prototype_ids_M[order].tolist() == [5, 6, 7]
    prototypes = objective.estimator.prototypes_SMD[:, order]
    torch.testing.assert_close(prototypes, torch.stack([texts[5:], images[5:]]))


def test_a_restart_forgets_the_adagrad_sums():
    objective = make(inner_steps=1, restart_every=2, num_prototypes=4)
    for step in range(2):
        objective(*batch(step))
        objective.advance(step + 1)
    two_updates = objective.estimator.squared_gradients_SMD.clone()
    objective(*batch(2))
    restarted = objective.estimator
    _images, _texts, ids = batch(2)
    assert sorted(restarted.prototype_ids_M.tolist()) == ids.tolist()
    assert not torch.equal(restarted.squared_gradients_SMD, two_updates)
    # The prototypes are the batch itself, so its one gradient is rounding noise.
    assert restarted.squared_gradients_SMD.max() < 1e-12 < two_updates.max()


def test_own_prototypes_stay_masked_after_they_moved():
    objective = make(inner_steps=3, inner_lr=0.05, num_prototypes=8, restart_every=100)
    objective(*batch(0, size=8))
    objective.advance(1)
    objective(*batch(1, size=8))
    network = objective.estimator
    _images, texts, ids = batch(0, size=8)
    assert not torch.equal(network.prototypes_SMD[0], texts)
    weights = network.column_offsets(
        Anchors(torch.zeros(2, 8, WIDTH), torch.zeros(8), ids, torch.tensor(0.07)), slice(8)
    )
    assert weights.isinf().nonzero().tolist() == [[i, i] for i in range(8)]
    assert weights.exp().sum(dim=1) == pytest.approx([1.0] * 8)


def test_only_training_changes_state():
    objective = make(inner_steps=2)
    first = objective.eval()(*batch(0))  # knows nothing yet, so the batch's own values stand in
    assert first.metrics["ratio_max"] == 1
    assert objective.predict(*batch(0)) is None
    objective.train()(*batch(0))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.eval()
    results = [objective(*batch(1)).loss for _ in range(2)]
    assert torch.equal(*results)
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_state_is_tensors_of_fixed_shape():
    objective = make()
    shapes = {name: value.shape for name, value in objective.state_dict().items()}
    for step in range(4):
        objective(*batch(step))
        objective.advance(step + 1)
    assert {name: value.shape for name, value in objective.state_dict().items()} == shapes


@pytest.mark.parametrize("mode", ["detached", "through"])
@pytest.mark.parametrize("saved_at", [1, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(mode, saved_at):
    fields = {"alpha_mode": mode, "inner_steps": 2, "restart_every": 5, "inner_lr": 0.02}

    def start():
        toy = Toy(n=4, dtype=torch.float32)
        objective = make(**fields)
        leaves = [*toy.encoders, *objective.parameters()]
        return toy, objective, leaves, torch.optim.Adam(leaves, lr=1e-2)

    def train(toy, objective, optimizer, steps):
        losses = []
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            toy.raw_images = torch.randn(4, 5, generator=generator)
            toy.raw_texts = torch.randn(4, 5, generator=generator)
            ids = torch.arange(4) + 3 * step  # neighbouring batches share a pair
            result = objective(*toy.features(), ids)
            optimizer.zero_grad()
            result.loss.backward()
            optimizer.step()
            objective.advance(step + 1)
            losses.append(result.loss.detach())
        return torch.stack(losses)

    toy, objective, leaves, optimizer = start()
    whole = train(toy, objective, optimizer, range(9))

    first_toy, first, first_leaves, first_optimizer = start()
    before = train(first_toy, first, first_optimizer, range(saved_at))
    second_toy, second, second_leaves, second_optimizer = start()
    second.load_state_dict(first.state_dict())
    second_optimizer.load_state_dict(first_optimizer.state_dict())
    for leaf, saved in zip(second_leaves, first_leaves, strict=True):
        leaf.data.copy_(saved.data)
    after = train(second_toy, second, second_optimizer, range(saved_at, 9))

    assert torch.equal(torch.cat([before, after]), whole)
    for leaf, expected in zip(second_leaves, leaves, strict=True):
        assert torch.equal(leaf, expected)
    for name, value in objective.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_temperature_is_kept_in_the_range_of_the_section():
    objective = make(temperature_min=0.02, temperature_max=0.5, temperature_lr=3e-4)
    [group] = objective.trainable()
    assert group.lr == 3e-4
    assert [tuple(parameter.shape) for parameter in group.parameters] == [()]
    for pushed, kept in ((9.0, 0.02), (-1.0, 0.5)):
        group.parameters[0].data.fill_(pushed)
        objective.advance(1)
        assert objective.temperature.item() == pytest.approx(kept)


def test_features_that_do_not_fit_are_named():
    objective = make()
    images, texts, ids = batch(0)
    with pytest.raises(ShapeError, match=r"\[B, 6\], found \[4, 5\]"):
        objective(images[:, :5], texts[:, :5], ids)
    with pytest.raises(ShapeError, match="at least 2, found 1"):
        objective(images[:1], texts[:1], ids[:1])


def test_prototypes_improve_the_prediction_of_later_batches():
    """The statistical point of the network: less error than the batch it is fitted to."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 2048, 16, generator=generator)
    images = normalize(raw[0], dim=1)
    texts = normalize(raw[0] + 1.2 * raw[1], dim=1)
    network = NetworkConfig(num_prototypes=256, inner_steps=5, inner_lr=0.003)
    section = NeuClipConfig(estimator=network)
    objective = build(section, feature_dim=16, num_samples=2048)
    tau = objective.temperature.detach()
    own = (images * texts).sum(dim=1)
    logits = (images @ texts.T - own[:, None]) / tau
    logits.fill_diagonal_(-torch.inf)
    exact = torch.logsumexp(logits, dim=1) - torch.tensor(2047.0).log()
    errors = []
    for step in range(60):
        ids = torch.randperm(2048, generator=generator)[:64]
        result = objective(images[ids], texts[ids], ids)
        objective.advance(step + 1)
        batch_logits = logits[ids][:, ids]
        batch_estimate = torch.logsumexp(batch_logits, dim=1) - torch.tensor(63.0).log()
        ours = (result.log_normalizers[0] - exact[ids]).square().mean()
        errors.append((ours, (batch_estimate - exact[ids]).square().mean()))
    ours, from_batch = torch.tensor(errors[20:]).mean(dim=0)
    assert ours < 0.7 * from_batch
    assert relative_error(result.metrics["ratio_mean"], torch.tensor(1.0)) < 0.25
