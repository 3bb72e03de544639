"""How well what models write fits the image, by a CLIP."""

from collections.abc import Sequence

from neuclip.curate.scores import ModelScore
from neuclip.scoring.clip import ClipModel


class ImageTextSimilarity:
    """Cosines of images with one text each."""

    def __init__(self, config: ModelScore) -> None:
        self._clip = ClipModel(config)
        self.model = self._clip.sha256

    def cosines(self, images: Sequence[bytes], texts: Sequence[str]) -> list[float | None]:
        """Return the cosine of each image with its text; None for an image that cannot be read."""
        image_features, readable = self._clip.encode_files(images)
        text_features = self._clip.text_features(texts)
        of_readable = text_features[[n for n, is_there in enumerate(readable) if is_there]]
        cosines = iter((image_features * of_readable).sum(dim=1).tolist())
        return [next(cosines) if is_there else None for is_there in readable]
