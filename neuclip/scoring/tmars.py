"""CLIP scores of images whose text is painted over: a caption that a sign in the image repeats scores no more.

Source: T-MARS, arXiv 2307.03132; text is found by the detector of PP-OCRv4 from the wheel of rapidocr-onnxruntime.
"""

import io
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageDraw

from neuclip.acquired.images import decode_rgb
from neuclip.curate.scores import TMars
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.scoring.clip import ClipModel, cosines
from neuclip.scoring.pairs import Pair, Partition
from neuclip.scoring.scorer import Scored

_MARGIN_PX = 4

Detector = Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]
"""From RGB pixels to quadrilaterals [4, 2] around text, x before y."""
_Mask = npt.NDArray[np.bool_]


class TMarsScorer:
    """Masks the text of every image, then asks a CLIP."""

    def __init__(self, config: TMars) -> None:
        self._config = config
        self._clip = ClipModel(config)
        self._detect = text_detector()
        self._detector_name = f"rapidocr-onnxruntime {version('rapidocr-onnxruntime')}"
        self.model = f"{self._clip.sha256}, {self._detector_name}"

    def score(self, partition: Partition) -> Scored:
        """Score every pair that has image and caption; the share of text is told with the score."""
        shares: dict[str, float] = {}

        def read(pair: Pair) -> bytes:
            content, shares[pair.uid] = mask_text(partition.image(pair), self._detect)
            return content

        values, reasons = cosines(self._clip, partition.pairs, read)
        parts = [
            None if why else shares[pair.uid]
            for pair, why in zip(partition.pairs, reasons, strict=True)
        ]
        name, share = self._config.columns()
        columns = {name: pa.array(values, pa.float32()), share: pa.array(parts, pa.float32())}
        return Scored(columns, reasons)

    def record(self) -> dict[str, Any]:
        """Return model hash, resize, precision and detector."""
        return {**self._clip.record(), "text_detector": self._detector_name}


def text_detector() -> Detector:
    """Load the text detector.

    Raises: ConfigError: if the optional package is not installed.
    """
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise ConfigError(
            "a score of kind tmars needs a text detector, which is not installed; "
            "install it with `pip install neuclip[tmars]`"
        ) from error
    engine = cast("Any", RapidOCR)()

    def detect(pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        found, _ = engine(pixels[:, :, ::-1].copy(), use_det=True, use_cls=False, use_rec=False)
        return [np.asarray(box, np.float32) for box in ([] if found is None else found)]

    return detect


def mask_text(content: bytes, detect: Detector) -> tuple[bytes, float]:
    """Paint over the text of an image file with the mean colour around it.

    Returns: a file that decodes to the masked image, and the share of its area that is masked, 0..1; a file
        without text, or one that does not decode, as it is.
    """
    try:
        image = decode_rgb(content)
    except DataError:
        return content, 0.0
    pixels = np.array(image)
    boxes = detect(pixels)
    if not boxes:
        return content, 0.0
    masks = [_mask(image.size, box) for box in boxes]
    text = np.logical_or.reduce(masks)
    ground = pixels[~text].mean(axis=0) if not text.all() else pixels.mean(axis=(0, 1))
    for mask in masks:
        around = _around(mask) & ~text
        colour = pixels[around].mean(axis=0) if around.any() else ground
        pixels[mask] = np.rint(colour).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), float(text.mean())


def _mask(size: tuple[int, int], box: npt.NDArray[np.float32]) -> _Mask:
    canvas = Image.new("1", size)
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in box], fill=1, outline=1)
    return np.array(canvas, dtype=bool)


def _around(mask: _Mask) -> _Mask:
    """Return the rectangle around a mask, some pixels wider at each side."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    around = np.zeros_like(mask)
    if len(rows):
        top, left = max(rows[0] - _MARGIN_PX, 0), max(columns[0] - _MARGIN_PX, 0)
        around[top : rows[-1] + _MARGIN_PX + 1, left : columns[-1] + _MARGIN_PX + 1] = True
    return around
