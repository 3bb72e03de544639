"""Small pictures of images, and whether two of them show the same: up to a slight crop, another size, another coding.

Legend: N pairs, H = W cells of a side, P = 4 parameters of a crop.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

LUMA_PX = 32
CHROMA_PX = 16
PICTURE_BYTES = LUMA_PX**2 + 2 * CHROMA_PX**2
"""A picture is the luma of 32 x 32 cells, then Cb and Cr of 16 x 16 cells, a byte each."""

MOST_CROP = 0.035
"""Largest part of a side that a copy may lack at either end."""

_LUMA_BLUR_CELLS, _CHROMA_BLUR_CELLS = 0.7, 0.5
_CONTRAST_SHARE = 0.1
_LUMA_TOLERANCE, _CHROMA_TOLERANCE = 6.0, 8.0
"""Of 255. Copies by JPEG q75, WebP q80, half the size and 2 % crops stay below both in 98 of 100 cases."""
_MOST_LUMA_OF_TILES, _MOST_CHROMA_OF_TILES = 28, 11
_LUMA = slice(0, LUMA_PX**2)
_CB = slice(LUMA_PX**2, LUMA_PX**2 + CHROMA_PX**2)
_CR = slice(LUMA_PX**2 + CHROMA_PX**2, PICTURE_BYTES)
_BORDER = 1
_STEPS = 5
_PAIRS_AT_ONCE = 2048

Pictures = npt.NDArray[np.uint8]
_Cells = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]


def picture_distance(first: Pictures, second: Pictures) -> npt.NDArray[np.float32]:
    """Compare pictures [N, PICTURE_BYTES] pair by pair; at most 1 means the same picture.

    Definition: the crop that brings the first nearest to the second is found by least squares on the luma (a
    scale and a shift along each side, Gauss-Newton). What then differs in a cell, less a tenth of the contrast
    around the cell (there, resampling alone makes a difference), is told in units of the tolerance; the
    largest of all cells counts, so that a changed face, hand or colour is not outvoted by an equal ground.
    Pictures whose sixteen tiles have means farther apart than a crop can bring them are not compared further.
    Returns: 0.. for each pair, infinity where tiles tell pictures apart.
    """
    distance = np.where(_have_alike_tiles(first, second), 0, np.inf).astype(np.float32)
    differing = np.flatnonzero(np.isfinite(distance) & (first != second).any(axis=1))
    for start in range(0, len(differing), _PAIRS_AT_ONCE):
        pairs = differing[start : start + _PAIRS_AT_ONCE]
        distance[pairs] = _distance(first[pairs], second[pairs])
    return distance


def _distance(first: Pictures, second: Pictures) -> npt.NDArray[np.float32]:
    (luma_a, *chroma_a), (luma_b, *chroma_b) = _planes(first), _planes(second)
    crop = _register(luma_a, luma_b)
    worst = _largest_difference(luma_a, luma_b, crop) / _LUMA_TOLERANCE
    for a, b in zip(chroma_a, chroma_b, strict=True):
        worst = np.maximum(worst, _largest_difference(a, b, crop) / _CHROMA_TOLERANCE)
    return worst


def _have_alike_tiles(first: Pictures, second: Pictures) -> _Mask:
    alike = np.ones(len(first), dtype=bool)
    for plane, most in (
        (_LUMA, _MOST_LUMA_OF_TILES),
        (_CB, _MOST_CHROMA_OF_TILES),
        (_CR, _MOST_CHROMA_OF_TILES),
    ):
        difference = np.abs(_tiles(first[:, plane]) - _tiles(second[:, plane]))
        alike &= (difference <= most).all(axis=(1, 2))
    return alike


def _tiles(plane: Pictures) -> _Cells:
    """Return the means [N, 4, 4] of the tiles of a plane."""
    cells = math.isqrt(plane.shape[1]) // 4
    return plane.reshape(-1, 4, cells, 4, cells).mean(axis=(2, 4), dtype=np.float32)


def _planes(pictures: Pictures) -> list[_Cells]:
    """Return luma, Cb and Cr, blurred a little, so that a shift by part of a cell can be undone."""
    return [
        _blurred(pictures[:, _LUMA], LUMA_PX, _LUMA_BLUR_CELLS),
        _blurred(pictures[:, _CB], CHROMA_PX, _CHROMA_BLUR_CELLS),
        _blurred(pictures[:, _CR], CHROMA_PX, _CHROMA_BLUR_CELLS),
    ]


def _blurred(plane: Pictures, px: int, width_cells: float) -> _Cells:
    cells = plane.reshape(-1, px, px).astype(np.float32)
    width = (0, width_cells, width_cells)
    return np.asarray(gaussian_filter(cells, width, mode="nearest"), np.float32)


def _register(first: _Cells, second: _Cells) -> _Cells:
    """Return the crops [N, P] that bring the first nearest to the second: shift and scale along x, then along y."""
    px = first.shape[1]
    place = np.linspace(-1, 1, px, dtype=np.float32)
    crop = np.zeros((len(first), 4), np.float32)
    most = MOST_CROP / np.sqrt(2)
    for _ in range(_STEPS):
        moved, _ = _cropped(first, crop)
        down, across = np.gradient((moved + second) / 2, axis=(1, 2))
        slopes = np.stack(
            [across, across * place, down, down * place[:, None]], axis=-1, dtype=np.float32
        )
        slopes = slopes.reshape(len(first), -1, 4) * np.float32(px)
        missing = (second - moved).reshape(len(first), -1, 1)
        transposed = slopes.transpose(0, 2, 1)
        normal = transposed @ slopes
        diagonal = np.arange(4)
        normal[:, diagonal, diagonal] *= 1.001
        normal[:, diagonal, diagonal] += np.float32(33 * px * px)  # a blank picture stays in place
        crop = crop + np.linalg.solve(normal, transposed @ missing)[..., 0]
        crop = np.clip(crop, -most, most).astype(np.float32)
    return crop


def _cropped(cells: _Cells, crop: _Cells) -> tuple[_Cells, _Mask]:
    """Resample cells under their crops; tell which cells lie inside."""
    px = cells.shape[1]
    place, number = np.linspace(-1, 1, px, dtype=np.float32), np.arange(px, dtype=np.float32)
    x = number + (crop[:, 0:1] + crop[:, 1:2] * place) * px
    y = number + (crop[:, 2:3] + crop[:, 3:4] * place) * px
    inside = _is_inside(x, px)[:, None, :] & _is_inside(y, px)[:, :, None]
    moved = _cubic(y, px) @ cells @ _cubic(x, px).transpose(0, 2, 1)
    return np.asarray(moved, np.float32), inside


def _is_inside(at: _Cells, px: int) -> _Mask:
    """Tell whose cells lie inside, but for the border, where a crop shows what was not there."""
    number = np.arange(px)
    border = (number < _BORDER) | (number >= px - _BORDER)
    return (at >= -0.3) & (at <= px - 0.7) & ~border


def _cubic(at: _Cells, px: int) -> _Cells:
    """Return the matrices of cubic interpolation (Catmull and Rom) at positions [N, H]."""
    distance = np.abs(np.clip(at, 0, px - 1)[:, :, None] - np.arange(px, dtype=np.float32))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)


def _largest_difference(first: _Cells, second: _Cells, crop: _Cells) -> npt.NDArray[np.float32]:
    """Return the largest difference of a cell beyond what contrast explains, for each pair."""
    moved, inside = _cropped(first, crop)
    contrast = np.maximum(_contrast(moved), _contrast(second))
    beyond = (np.abs(moved - second) - _CONTRAST_SHARE * contrast) * inside
    return np.maximum(beyond, 0).max(axis=(1, 2)).astype(np.float32)


def _contrast(cells: _Cells) -> _Cells:
    """Return largest less smallest of the 3 x 3 cells around each cell."""
    around = (1, 3, 3)
    largest = np.asarray(maximum_filter(cells, around, mode="nearest"), np.float32)
    return largest - np.asarray(minimum_filter(cells, around, mode="nearest"), np.float32)
