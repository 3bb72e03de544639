"""The `score.scores` list of a recipe: columns that are computed from images and captions, once for each pair."""

from typing import Annotated, Literal

from pydantic import Field

from neuclip.foundation.config import Section, unkeyed
from neuclip.storage.places import Place

SCORE_VERSION = 2
"""Raised when any scorer's output for the same settings, model and pairs changes."""

MODEL_SUFFIXES = (".json", ".safetensors")

_LABEL = r"^[a-z][a-z0-9_]{0,39}$"


class PHash(Section):
    """Perceptual hash: what near-duplicates are found by."""

    kind: Literal["phash"]
    name: str = Field(default="phash", pattern=_LABEL, description="label; also the column's name")

    def columns(self) -> tuple[str, ...]:
        """Return the column: the 64-bit hash. Further hashes and small pictures lie in files beside the table."""
        return (self.name,)


class _OfText(Section):
    source: str = Field(default="alt", description="caption source whose first text is looked at")


class Language(_OfText):
    """Language of a caption, by fastText's lid.176."""

    kind: Literal["language"]
    name: str = Field(
        default="language", pattern=_LABEL, description="label; also the column's name"
    )

    def columns(self) -> tuple[str, ...]:
        """Return the columns: ISO 639 code of the most probable language, and its probability."""
        return self.name, f"{self.name}_probability"


class ModelScore(Section):
    """What scores by a CLIP have in common."""

    model: Place = Field(
        description="folder with open_clip_config.json and open_clip_model.safetensors, any URI: such as the "
        "`model` folder of a select stage",
        json_schema_extra={"keyed": False},  # its content counts, not where it lies
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="bf16",
        description="bf16: autocast where there is a GPU; a CPU always computes in fp32",
    )
    batch_size: int = unkeyed(256, ge=1, description="images or captions encoded at once")


class ClipScore(ModelScore, _OfText):
    """Cosine of image and caption."""

    kind: Literal["clip_score"]
    name: str = Field(
        default="clip_score", pattern=_LABEL, description="label; also the column's name"
    )

    def columns(self) -> tuple[str, ...]:
        """Return the column: cosine, -1..1."""
        return (self.name,)


class Embedding(ModelScore):
    """Features of the image, as a file beside the table."""

    kind: Literal["embedding"]
    name: str = Field(default="embedding", pattern=_LABEL, description="label")

    def columns(self) -> tuple[str, ...]:
        """Return no column: features lie in a file."""
        return ()


class TMars(ModelScore, _OfText):
    """CLIP score of the image with the text in it painted over."""

    kind: Literal["tmars"]
    name: str = Field(default="tmars", pattern=_LABEL, description="label; also the column's name")

    def columns(self) -> tuple[str, ...]:
        """Return the columns: cosine of the masked image and the caption, and the share of the area masked."""
        return self.name, f"{self.name}_text_share"


ScoreConfig = Annotated[
    PHash | Language | ClipScore | Embedding | TMars, Field(discriminator="kind")
]


def source_of(score: ScoreConfig) -> str | None:
    """Return the caption source that a score depends on, None if it looks at the image alone."""
    return score.source if isinstance(score, _OfText) else None
