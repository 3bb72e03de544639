"""Scores by a CLIP: cosines of images and captions, and their features.

Legend: N pairs of a chunk, M images that decode, D embedding width.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from neuclip.curate.pool import FEATURES
from neuclip.curate.scores import ClipScore, Embedding, ModelScore
from neuclip.foundation.errors import NumericsError
from neuclip.scoring.pairs import Pair, Partition, chunks
from neuclip.scoring.scorer import NO_CAPTION, NOT_ACQUIRED, NOT_FINITE, UNDECODABLE, Scored
from neuclip.storage.cache import local_folder
from neuclip.storage.files import sha256_of
from neuclip.towers.encode import encode_images, encode_texts, scoring_device
from neuclip.towers.files import model_files
from neuclip.towers.folder import load_towers, read_architecture
from neuclip.towers.towers import Towers


class ClipModel:
    """The towers of a model folder, loaded when they are first used, with the hash that names them."""

    def __init__(self, config: ModelScore) -> None:
        self._config = config
        self._folder = local_folder(config.model)
        read_architecture(self._folder)  # a model that cannot score says so before it is hashed
        names = model_files(path.name for path in self._folder.iterdir())
        hashes = [sha256_of(str(self._folder / name)) for name in names]
        self.sha256 = hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    @cached_property
    def towers(self) -> Towers:
        """The towers, on the GPU where there is one.

        Raises: NumericsError: if a weight is not finite: such a model scores nothing.
        """
        towers = load_towers(self._folder, scoring_device())
        for name, weight in towers.model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise NumericsError(
                    f"weight {name} of the model {self._config.model} is not finite; score with another checkpoint"
                )
        return towers

    def image_features(
        self, pairs: Sequence[Pair], read: Callable[[Pair], bytes]
    ) -> tuple[Float[Tensor, "M D"], list[bool]]:
        """Encode the images of pairs; tell for each pair whether its image decodes."""
        return self.encode_files(map(read, pairs))

    def encode_files(self, contents: Iterable[bytes]) -> tuple[Float[Tensor, "M D"], list[bool]]:
        """Encode image files; tell for each whether it decodes."""
        with self._precision():
            features, decoded = encode_images(
                self.towers, contents, batch_size=self._config.batch_size
            )
        return normalize(features, dim=1), decoded

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Encode captions."""
        with self._precision():
            features = encode_texts(self.towers, texts, batch_size=self._config.batch_size)
        return normalize(features, dim=1)

    def record(self) -> dict[str, Any]:
        """Return the model's hash, how images are resized, and the precision that was computed in."""
        preprocess = self.towers.preprocess
        return {
            "model": self.sha256,
            "image_px": self.towers.image_px,
            "resize_mode": preprocess["resize_mode"],
            "interpolation": preprocess["interpolation"],
            "precision": "bf16" if self._is_bf16 else "fp32",
        }

    @property
    def _is_bf16(self) -> bool:
        return self._config.precision == "bf16" and self.towers.device.type == "cuda"

    @contextmanager
    def _precision(self) -> Generator[None]:
        with torch.autocast(self.towers.device.type, torch.bfloat16, enabled=self._is_bf16):
            yield


class ClipScorer:
    """Cosine of image and caption; equals open_clip's, see tests/scoring/test_clip.py."""

    def __init__(self, config: ClipScore) -> None:
        self._config = config
        self._clip = ClipModel(config)
        self.model = self._clip.sha256

    def score(self, partition: Partition) -> Scored:
        """Score every pair that has both."""
        values, reasons = cosines(self._clip, partition.pairs, partition.image)
        return Scored({self._config.name: pa.array(values, pa.float32())}, reasons)

    def record(self) -> dict[str, Any]:
        """Return model hash, resize and precision."""
        return self._clip.record()


class EmbeddingScorer:
    """Features of images."""

    def __init__(self, config: Embedding) -> None:
        self._clip = ClipModel(config)
        self.model = self._clip.sha256

    def score(self, partition: Partition) -> Scored:
        """Encode all images; zeros stand for those that are not there."""
        features = np.zeros((len(partition.pairs), self._clip.towers.embed_dim), np.float16)
        reasons: list[str | None] = []
        for chunk in chunks(partition.pairs):
            rows = slice(len(reasons), len(reasons) + len(chunk))
            images, of_chunk = image_features_of(self._clip, chunk, partition.image)
            features[rows] = images.numpy()
            reasons += of_chunk
        return Scored({}, reasons, {FEATURES: features})

    def record(self) -> dict[str, Any]:
        """Return model hash, resize, precision, and the width of the features."""
        return {**self._clip.record(), "width": self._clip.towers.embed_dim}


@dataclass(frozen=True)
class EncodedPairs:
    """Unit-norm features of pairs; zeros where there is none, with the first reason why not."""

    images: Float[Tensor, "N D"]
    texts: Float[Tensor, "N D"]
    reasons: list[str | None]


def cosines(
    clip: ClipModel, pairs: Sequence[Pair], read: Callable[[Pair], bytes]
) -> tuple[list[float | None], list[str | None]]:
    """Return the cosine of image and caption of every pair, None with a reason where there is none."""
    values: list[float | None] = []
    reasons: list[str | None] = []
    for chunk in chunks(pairs):
        found = encode_pairs(clip, chunk, read)
        of_chunk = (found.images * found.texts).sum(dim=1).tolist()
        values += [None if why else v for v, why in zip(of_chunk, found.reasons, strict=True)]
        reasons += found.reasons
    return values, reasons


def encode_pairs(
    clip: ClipModel, pairs: Sequence[Pair], read: Callable[[Pair], bytes]
) -> EncodedPairs:
    """Encode what pairs have of image and caption."""
    images, why_no_image = image_features_of(clip, pairs, read)
    told = [n for n, pair in enumerate(pairs) if pair.caption is not None]
    texts = clip.text_features([pairs[n].caption or "" for n in told])
    captions, is_finite = _placed(texts, told, len(pairs))
    has_caption = set(told)
    reasons = [
        why
        if why not in (None, NOT_FINITE)
        else NO_CAPTION
        if n not in has_caption
        else why
        if is_finite[n]
        else NOT_FINITE
        for n, why in enumerate(why_no_image)
    ]
    return EncodedPairs(images, captions, reasons)


def image_features_of(
    clip: ClipModel, pairs: Sequence[Pair], read: Callable[[Pair], bytes]
) -> tuple[Float[Tensor, "N D"], list[str | None]]:
    """Return unit-norm features of images, zeros where there are none, and why there are none."""
    fetched = [n for n, pair in enumerate(pairs) if pair.member is not None]
    features, decoded = clip.image_features([pairs[n] for n in fetched], read)
    seen = [n for n, is_good in zip(fetched, decoded, strict=True) if is_good]
    images, is_finite = _placed(features, seen, len(pairs))
    has_image = set(seen)
    reasons = [
        NOT_ACQUIRED
        if pair.member is None
        else UNDECODABLE
        if n not in has_image
        else None
        if is_finite[n]
        else NOT_FINITE
        for n, pair in enumerate(pairs)
    ]
    return images, reasons


def _placed(
    features: Float[Tensor, "M D"], rows: list[int], total: int
) -> tuple[Float[Tensor, "N D"], list[bool]]:
    """Put features into their rows; those that are not finite become zeros and are told."""
    is_finite = torch.isfinite(features).all(dim=1)
    placed = torch.zeros(total, features.shape[1])
    placed[rows] = torch.where(is_finite[:, None], features, 0.0)
    finite = torch.ones(total, dtype=torch.bool)
    finite[rows] = is_finite
    return placed, finite.tolist()
