"""Oracles: open_clip's own resizing of tables, timm's, a bicubic kernel written out in float64, the rows by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from open_clip.pos_embed import get_2d_sincos_pos_embed
from timm.layers import resample_abs_pos_embed

from neuclip.towers.positions import resized_grid, resized_text


def table(rows, width=5, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def cubic(x, a=-0.5):
    """Keys' kernel; antialiased interpolation uses a = -1/2."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def bicubic_matrix(size, new):
    """Weights [new, size]: the kernel is stretched where the grid shrinks, and normalised at the edges."""
    scale = size / new
    stretch = max(scale, 1.0)
    weights = np.array(
        [[cubic((i + 0.5 - (k + 0.5) * scale) / stretch) for i in range(size)] for k in range(new)]
    )
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("side", "new"), [(6, 16), (14, 7), (7, 24), (16, 6)])
def test_a_grid_is_what_the_kernel_written_out_gives(side, new):
    own = table(1 + side**2)
    found = resized_grid(own, new, prefix=1)
    matrix = bicubic_matrix(side, new)
    grid = own[1:].double().numpy().reshape(side, side, -1)
    expected = np.einsum("ki,lj,ijw->klw", matrix, matrix, grid).reshape(new**2, -1)
    np.testing.assert_allclose(found[1:].numpy(), expected, atol=2e-6)
    assert torch.equal(found[0], own[0])


@pytest.mark.parametrize(("side", "new"), [(6, 16), (14, 7)])
def test_a_grid_is_what_open_clip_and_timm_make(side, new):
    own = table(1 + side**2)
    state = {"visual.positional_embedding": own}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=new)))
    found = resized_grid(own, new, prefix=1)
    assert torch.equal(found, state["visual.positional_embedding"])
    by_timm = resample_abs_pos_embed(own[None], [new, new], num_prefix_tokens=1)
    torch.testing.assert_close(found, by_timm[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("length", "new"), [(8, 32), (77, 16), (16, 17)])
def test_texts_are_what_open_clip_and_numpy_make(length, new):
    own = table(length)
    state = {"positional_embedding": own}
    resize_text_pos_embed(state, SimpleNamespace(positional_embedding=table(new)))
    found = resized_text(own, new)
    assert torch.equal(found, state["positional_embedding"])
    places = (np.arange(new) + 0.5) * length / new - 0.5
    for column in range(own.shape[1]):
        expected = np.interp(places, np.arange(length), own[:, column].double().numpy())
        np.testing.assert_allclose(found[:, column].numpy(), expected, atol=2e-6)


def test_the_same_size_is_the_identity():
    assert torch.equal(resized_grid(table(37), 6, prefix=1), table(37))
    assert torch.equal(resized_text(table(8), 8), table(8))


def test_a_text_that_grows_keeps_its_first_and_last_row():
    own = table(8)
    found = resized_text(own, 32)
    torch.testing.assert_close(found[[0, -1]], own[[0, -1]], rtol=0, atol=1e-6)


def test_regenerated_rows_begin_with_those_of_the_small_grid():
    """CLIPA's: integer coordinates, so the 6 x 6 table is the top left corner of the 16 x 16 one."""
    small, large = (get_2d_sincos_pos_embed(32, side).reshape(side, side, -1) for side in (6, 16))
    np.testing.assert_array_equal(large[:6, :6], small)
    interpolated = resized_grid(torch.tensor(small).reshape(36, -1), 16, prefix=0)
    assert not math.isclose(interpolated[17].sum().item(), large[1, 1].sum())
