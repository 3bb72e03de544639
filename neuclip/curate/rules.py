"""The kinds of rules that a recipe may list, and what each keeps."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neuclip.foundation.config import Section
from neuclip.storage.places import Place

_NAME = r"^[a-z][a-z0-9_]*$"


class _Named(Section):
    """What all rules have."""

    name: str | None = Field(
        default=None,
        pattern=_NAME,
        description="reason that a dropped pair gets; null takes the kind's name",
    )


class _Bounds(_Named):
    @model_validator(mode="after")
    def _in_order(self) -> Self:
        least, most = getattr(self, "min"), getattr(self, "max")  # noqa: B009  # of the kinds below
        if least is None and most is None:
            raise ValueError(
                "has neither min nor max, so it keeps every pair; give one or take the rule out"
            )
        if least is not None and most is not None and least > most:
            raise ValueError(f"min {least} is above max {most}, so no pair could be kept")
        return self


class OfText(Section):
    """What rules over a text have."""

    source: str = Field(
        default="alt",
        description="caption source whose first text is looked at; alt is that of acquire.caption_column",
    )
    missing: Literal["drop", "keep"] = Field(
        default="keep",
        description="what becomes of a pair without a text of this source; dropped ones get NAME_missing",
    )


class CaptionWords(_Bounds, OfText):
    """Keeps texts by their number of words: runs of characters that are not white space, as in Python."""

    kind: Literal["caption_words"] = "caption_words"
    min: int | None = Field(default=None, ge=1, description="least words")
    max: int | None = Field(default=None, ge=1, description="most words")


class CaptionCharacters(_Bounds, OfText):
    """Keeps texts by their number of Unicode characters."""

    kind: Literal["caption_characters"] = "caption_characters"
    min: int | None = Field(default=None, ge=1, description="least characters")
    max: int | None = Field(default=None, ge=1, description="most characters")


class ImageSide(_Bounds):
    """Keeps images by the shorter side of the original image."""

    kind: Literal["image_side"] = "image_side"
    min: int | None = Field(default=None, ge=1, description="least pixels of the shorter side")
    max: int | None = Field(default=None, ge=1, description="most pixels of the shorter side")


class AspectRatio(_Named):
    """Keeps images that are not too long."""

    kind: Literal["aspect_ratio"] = "aspect_ratio"
    max: float = Field(
        default=3, ge=1, description="longest over shortest side of the original image, at most"
    )


class Language(_Named):
    """Keeps pairs by the language of a text, which a `language` score has found."""

    kind: Literal["language"] = "language"
    score: str = Field(
        default="language", pattern=_NAME, description="name of the score of kind `language`"
    )
    keep: list[str] = Field(
        min_length=1,
        description="languages to keep, ISO 639 codes as lid.176 of fastText gives them",
    )
    min_probability: float = Field(
        default=0, ge=0, le=1, description="least probability of the language found"
    )


class CaptionNoise(_Named, OfText):
    """Drops pairs by a text that describes nothing."""

    kind: Literal["caption_noise"] = "caption_noise"
    patterns: list[str] = Field(
        default_factory=lambda: [
            "url",
            "file_name",
            "markup",
            "no_letters",
            "placeholder",
            "repeated",
        ],
        description="patterns to drop by: url, file_name, markup, no_letters, placeholder, repeated, or a regular "
        "expression in RE2's syntax that is looked for anywhere in the text",
    )


class ColumnBounds(_Bounds):
    """Keeps pairs by a number in a column: of the table (acquire.keep_columns) or of a score."""

    kind: Literal["column"] = "column"
    column: str = Field(description="name of the column")
    min: float | None = Field(default=None, allow_inf_nan=False, description="least value")
    max: float | None = Field(default=None, allow_inf_nan=False, description="largest value")
    missing: Literal["drop", "keep"] = Field(
        default="drop",
        description="what becomes of a pair whose value is null or not a number; dropped ones get NAME_missing",
    )


class TopFraction(_Named):
    """Keeps the pairs with the highest values of a column, the share taken of the whole pool."""

    kind: Literal["top_fraction"] = "top_fraction"
    column: str = Field(description="name of the column")
    fraction: float = Field(
        gt=0,
        lt=1,
        description="share of all acquired pairs; those are kept that reach the value at place int(pairs x fraction) "
        "counted from 0 downwards, as DataComp's baselines do",
    )
    missing: Literal["drop", "keep"] = Field(
        default="drop",
        description="as for kind `column`; missing values count as pairs of the pool",
    )


class Sql(_Named):
    """Keeps the pairs for which an SQL expression over their columns is true."""

    kind: Literal["sql"] = "sql"
    keep: str = Field(
        min_length=1,
        description="a boolean DuckDB expression over one pair's columns, `alt` and `captions['SOURCE'][1]` among "
        "them; null drops the pair",
    )


class UidList(_Named):
    """Keeps or drops the pairs whose uid is in a subset file."""

    kind: Literal["uids"] = "uids"
    file: Place = Field(
        description="sorted .npy of dtype u8,u8, DataComp's subset file; any URI. Repeats count once here"
    )
    listed: Literal["keep", "drop"] = Field(
        default="keep", description="keep: an allow list, all others are dropped; drop: a deny list"
    )


Preference = Annotated[
    str, Field(pattern=r"^(longest_caption|largest_image|(highest|lowest) [A-Za-z_][A-Za-z0-9_]*)$")
]
"""What makes a pair the better one; `highest COLUMN` and `lowest COLUMN` for any column, nulls last."""


class OverGroups(_Named):
    """What rules that choose among pairs have; one that is added needs a case in groups.py."""


class _Duplicates(OverGroups):
    best: list[Preference] = Field(
        default=["longest_caption"],
        description="which pair of a group is kept, first preference first: longest_caption, largest_image, "
        "highest COLUMN, lowest COLUMN; the lowest uid decides among equals",
    )


class DuplicatePairs(OverGroups):
    """Of pairs with the same URL and alt text keeps the lowest uid; those without an alt text stay."""

    kind: Literal["duplicate_pairs"] = "duplicate_pairs"


class DuplicateImages(_Duplicates):
    """Of images with the same downloaded bytes keeps the best."""

    kind: Literal["duplicate_images"] = "duplicate_images"


class NearDuplicateImages(_Duplicates):
    """Of images that look the same keeps the best: re-encoded, resized or slightly cropped copies."""

    kind: Literal["near_duplicate_images"] = "near_duplicate_images"
    score: str = Field(
        default="phash", pattern=_NAME, description="name of the score of kind `phash`"
    )


class SemanticDuplicates(_Duplicates):
    """Of images with nearly the same embedding keeps the best (SemDeDup, arXiv 2303.09540)."""

    kind: Literal["semantic_duplicates"] = "semantic_duplicates"
    score: str = Field(pattern=_NAME, description="name of the score of kind `embedding`")
    threshold: float = Field(
        default=0.95, gt=0, lt=1, description="cosine of two images above which they are the same"
    )
    clusters: int = Field(
        default=1000, ge=1, description="k-means clusters; pairs are compared within one"
    )


class ImageCluster(_Named):
    """Keeps images that fall into a cluster of the pool which is also nearest to some target image.

    Source: image-based filtering of DataComp, arXiv 2304.14108.
    """

    kind: Literal["image_cluster"] = "image_cluster"
    score: str = Field(pattern=_NAME, description="name of the score of kind `embedding`")
    target: Place = Field(description="target images: a folder in the wds_* layout, any URI")
    clusters: int = Field(default=1000, ge=1, description="k-means clusters of the pool's images")


class Balance(OverGroups):
    """Thins out what is frequent: MetaCLIP's balancing over a list of words and phrases (arXiv 2309.16671).

    An entry matches a text that has its words side by side. A pair is kept with probability
    min(1, most_per_entry / matches) for each entry that it matches, drawn by (seed, uid, entry); one that
    matches none is dropped.
    """

    kind: Literal["balance"] = "balance"
    source: str = Field(default="alt", description="caption source whose first text is matched")
    metadata: Place = Field(description="text file with one word or phrase a line; any URI")
    most_per_entry: int = Field(
        default=20_000, ge=1, description="pairs of one entry that are expected to be kept"
    )


RowRule = (
    CaptionWords
    | CaptionCharacters
    | ImageSide
    | AspectRatio
    | Language
    | CaptionNoise
    | ColumnBounds
    | TopFraction
    | Sql
    | UidList
    | ImageCluster
)
"""Rules that look at one pair, and at the pool as it came: their verdict does not depend on other rules."""

GroupRule = DuplicatePairs | DuplicateImages | NearDuplicateImages | SemanticDuplicates | Balance
"""Rules that choose among the pairs that the rules before them keep."""

Rule = Annotated[RowRule | GroupRule, Field(discriminator="kind")]


def reason_of(rule: RowRule | GroupRule) -> str:
    """Return the reason that a pair gets which a rule drops."""
    return rule.name or rule.kind
