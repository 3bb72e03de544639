"""Oracle: what may not change when pairs are reordered, rotated, or modalities swap names."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.toy import Toy, relative_error

FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TOLERANCE = 1e-10  # two AdaGrad steps amplify rounding a little


@pytest.fixture
def run(make_openclip, make_neuclip):
    """Loss, feature gradients, temperature gradient and, if any, the prototypes afterwards."""

    def run(name, toy, images, texts, ids, *, prototypes, inner_steps=2):
        if name == "openclip":
            objective = make_openclip(toy)
        else:
            objective = make_neuclip(
                toy, *prototypes, inner_steps=inner_steps, inner_lr=0.01, alpha_mode=name
            )
        leaves = [images.detach().requires_grad_(), texts.detach().requires_grad_()]
        result = objective(*leaves, ids)
        t = objective.learned_temperature.log_scale
        image_grad, text_grad, t_grad = torch.autograd.grad(result.loss, [*leaves, t])
        moved = None if name == "openclip" else objective.estimator.prototypes_SMD
        return result.loss, image_grad, text_grad, t_grad, moved, result.log_normalizers

    return run


@pytest.mark.parametrize("name", ["openclip", "detached", "through"])
@FEW
@given(seed=st.integers(0, 10_000))
def test_swapped_modalities_swap_the_gradients(run, some_prototypes, name, seed):
    toy = Toy(seed=seed)
    images, texts = (features.detach() for features in toy.features())
    prototypes, ids = some_prototypes(toy)
    plain = run(name, toy, images, texts, toy.ids, prototypes=(prototypes, ids))
    swapped = run(name, toy, texts, images, toy.ids, prototypes=(prototypes.flip(0), ids))
    loss, image_grad, text_grad, t_grad, moved, estimates = swapped
    expected = plain[0], plain[2], plain[1], plain[3]
    assert relative_error([loss, image_grad, text_grad, t_grad], list(expected)) < TOLERANCE
    assert relative_error(list(estimates[::-1]), list(plain[5])) < TOLERANCE
    if moved is not None:
        assert relative_error(moved.flip(0), plain[4]) < TOLERANCE


@pytest.mark.parametrize("name", ["openclip", "detached", "through"])
@FEW
@given(seed=st.integers(0, 10_000))
def test_reordered_pairs_reorder_the_gradients(run, some_prototypes, name, seed):
    toy = Toy(seed=seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    images, texts = (features.detach() for features in toy.features())
    prototypes = some_prototypes(toy)
    plain = run(name, toy, images, texts, toy.ids, prototypes=prototypes)
    found = run(name, toy, images[order], texts[order], toy.ids[order], prototypes=prototypes)
    expected = plain[0], plain[1][order], plain[2][order], plain[3]
    assert relative_error(list(found[:4]), list(expected)) < TOLERANCE
    assert relative_error(list(found[5]), [e[order] for e in plain[5]]) < TOLERANCE
    if found[4] is not None:
        assert relative_error(found[4], plain[4]) < TOLERANCE


@pytest.mark.parametrize("name", ["openclip", "detached", "through"])
@FEW
@given(seed=st.integers(0, 10_000))
def test_a_common_rotation_changes_no_value(run, some_prototypes, name, seed):
    toy = Toy(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(square)
    images, texts = (features.detach() for features in toy.features())
    prototypes, ids = some_prototypes(toy)
    # AdaGrad works by coordinate, so only what comes before it is unmoved.
    plain = run(name, toy, images, texts, toy.ids, prototypes=(prototypes, ids), inner_steps=0)
    rotated = images @ rotation, texts @ rotation, toy.ids
    found = run(name, toy, *rotated, prototypes=(prototypes @ rotation, ids), inner_steps=0)
    expected = [plain[0], plain[1] @ rotation, plain[2] @ rotation, plain[3]]
    assert relative_error(list(found[:4]), expected) < TOLERANCE
