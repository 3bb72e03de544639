"""Perceptual hashes and small pictures of images: what near-duplicates and evaluation images are found by."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import cache
from importlib.metadata import version
from typing import Any

import imagehash
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from scipy.fft import idctn

from neuclip.acquired.images import decode_rgb
from neuclip.curate.near_images import (
    CROPS,
    HASHES_FILE,
    NUM_HASHES,
    PICTURES_FILE,
    Hashes,
)
from neuclip.curate.pictures import CHROMA_PX, LUMA_PX, PICTURE_BYTES, Pictures
from neuclip.curate.scores import PHash
from neuclip.foundation.errors import DataError
from neuclip.foundation.randomness import keyed_hash
from neuclip.scoring.pairs import Pair, Partition, chunks, decoding_threads
from neuclip.scoring.scorer import NOT_ACQUIRED, UNDECODABLE, Scored

_CANVAS_PX = 64
_HASH_PX = 32
_FREQUENCIES = 8
_RIPPLE = 225.0
"""Of the highest frequency, in units of the library's cosine sums; 3 gray levels for all together."""

Described = tuple[Hashes, Pictures]


class PHashScorer:
    """Five hashes and a small picture of every image; the table shows the hash of the whole image."""

    def __init__(self, config: PHash) -> None:
        self._config = config
        self.model = f"imagehash {version('imagehash')}"

    def score(self, partition: Partition) -> Scored:
        """Describe every image that decodes; hashes and pictures of the others are zeros."""
        pairs = partition.pairs
        hashes = np.zeros((len(pairs), NUM_HASHES), np.uint64)
        pictures = np.zeros((len(pairs), PICTURE_BYTES), np.uint8)
        reasons: list[str | None] = []
        with decoding_threads() as threads:
            for chunk in chunks(pairs):
                found = _describe_all(threads, chunk, partition.image)
                for pair, described in zip(chunk, found, strict=True):
                    if described is not None:
                        hashes[len(reasons)], pictures[len(reasons)] = described
                    reasons.append(_reason(pair, described))
        is_null = np.array([reason is not None for reason in reasons], dtype=bool)
        return Scored(
            {self._config.name: pa.array(hashes[:, 0], pa.uint64(), mask=is_null)},
            reasons,
            {HASHES_FILE: hashes, PICTURES_FILE: pictures},
        )

    def record(self) -> dict[str, Any]:
        """Return library and sizes."""
        return {"model": self.model, "hash_px": _HASH_PX, "picture_px": [LUMA_PX, CHROMA_PX]}


def describe(content: bytes) -> Described | None:
    """Return hashes and picture of an image file, None if it does not decode."""
    try:
        image = decode_rgb(content)
    except DataError:
        return None
    canvas = image.resize((_CANVAS_PX, _CANVAS_PX), Image.Resampling.BICUBIC)
    return _hashes(canvas.convert("L")), _picture(canvas)


def _describe_all(
    threads: Executor, pairs: Sequence[Pair], read: Callable[[Pair], bytes]
) -> list[Described | None]:
    def one(pair: Pair) -> Described | None:
        return None if pair.member is None else describe(read(pair))

    return list(threads.map(one, pairs))


def _reason(pair: Pair, described: Described | None) -> str | None:
    if pair.member is None:
        return NOT_ACQUIRED
    return UNDECODABLE if described is None else None


def _hashes(gray: Image.Image) -> Hashes:
    """Hash the whole image and its four corner crops, so that a crop's hash is near one of the original's.

    A faint ripple is laid over the image: mirror-symmetric drawings lack every other frequency, and the signs of
    nothing would be noise.
    """
    hashes: list[int] = []
    for left, top, right, bottom in CROPS:
        box = (_CANVAS_PX * left, _CANVAS_PX * top, _CANVAS_PX * right, _CANVAS_PX * bottom)
        part = gray.resize((_HASH_PX, _HASH_PX), Image.Resampling.LANCZOS, box=box)
        rippled = np.rint(0.75 * np.asarray(part, np.float32) + 32 + _ripple())
        bits = imagehash.phash(Image.fromarray(rippled.astype(np.uint8))).hash
        hashes.append(int.from_bytes(np.packbits(bits).tobytes(), "big"))
    return np.array(hashes, np.uint64)


@cache
def _ripple() -> npt.NDArray[np.float64]:
    """Return a fixed pattern of low frequencies, stronger where frequencies are higher and images weaker."""
    frequency = np.arange(_FREQUENCIES)
    signs = np.where(keyed_hash(np.arange(_FREQUENCIES**2), seed=0) & np.uint64(1), 1.0, -1.0)
    sums = np.zeros((_HASH_PX, _HASH_PX))
    sums[:_FREQUENCIES, :_FREQUENCIES] = (
        _RIPPLE * np.add.outer(frequency, frequency) * signs.reshape(_FREQUENCIES, _FREQUENCIES)
    )
    return np.asarray(idctn(sums))


def _picture(canvas: Image.Image) -> Pictures:
    def plane(px: int, *names: str) -> list[npt.NDArray[np.uint8]]:
        small = canvas.resize((px, px), Image.Resampling.BILINEAR).convert("YCbCr")
        return [np.asarray(small.getchannel(name)).ravel() for name in names]

    return np.concatenate([*plane(LUMA_PX, "Y"), *plane(CHROMA_PX, "Cb", "Cr")])
