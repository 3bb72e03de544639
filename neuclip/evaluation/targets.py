"""What a sample of an evaluation set is held against, or why it cannot be scored."""

import re

from neuclip.foundation.text import split_lines
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import IMAGE_SUFFIXES, TarSample

TARGET_SUFFIX = {"classification": "cls", "retrieval": "txt"}
_IMAGE_ORDER = ("webp", "png", "jpg", "jpeg")
"""Which image of a sample with several is scored: CLIP_benchmark's."""
_LABEL = re.compile(rb"\s*\+?[0-9]{1,12}\s*")

Why = tuple[str, str]
"""A reason, and in words what was found."""


def image_of(sample: TarSample) -> bytes | None:
    """Return the image file of a sample that is scored, None if it has none."""
    return sample.image(_IMAGE_ORDER)


def captions_of(target: bytes) -> list[str]:
    """Return the captions in a text member, one a line; blank lines are none."""
    return [line.strip() for line in split_lines(target.decode("utf-8")) if line.strip()]


def judge(sample: TarSample, suite: EvaluationSet) -> tuple[bool, list[Why]]:
    """Tell whether a sample is scored, and why it or pictures beside it are not, a reason for each that is lost."""
    suffix = TARGET_SUFFIX[suite.kind]
    dotted = _dotted_images(sample, suffix)
    if dotted and image_of(sample) is None:
        return False, dotted
    why = _why_not(sample, suffix, suite)
    return why is None, dotted + ([] if why is None else [why])


def _why_not(sample: TarSample, suffix: str, suite: EvaluationSet) -> Why | None:
    target = sample.parts.get(suffix)
    if image_of(sample) is None:
        return "no_image", f"the sample {sample.key!r} has {_members(sample)}"
    if target is None or not target.strip():
        return (
            f"no_{suffix}",
            f"{sample.key}.{suffix} {'is missing' if target is None else 'is empty'}",
        )
    if suite.kind == "classification":
        return _wrong_label(sample.key, target, suite)
    return _wrong_text(sample.key, target)


def _dotted_images(sample: TarSample, suffix: str) -> list[Why]:
    """Return a reason for each image that would be a sample if its key went on after the first dot."""
    names = [other for other in sample.others if _is_dotted_image(other)]
    return [
        (
            "dot_in_key",
            f"{sample.key}.{name} has a second dot; a key ends at the first dot, as for webdataset: write members as "
            "KEY.SUFFIX, with no dot in KEY",
        )
        for name in names
        if image_of(sample) is None or f"{name.rpartition('.')[0]}.{suffix}" in sample.others
    ]


def _is_dotted_image(suffix: str) -> bool:
    stem, dot, last = suffix.rpartition(".")
    return bool(stem and dot) and last in IMAGE_SUFFIXES


def _wrong_label(key: str, target: bytes, suite: EvaluationSet) -> Why | None:
    if _LABEL.fullmatch(target) and int(target) < len(suite.classnames):
        return None
    found = target[:40].decode("ascii", "replace")
    last = len(suite.classnames) - 1
    return (
        "bad_label",
        f"{key}.cls holds {found!r}, expected 0 to {last}, the place of the class in classnames.txt counted from zero",
    )


def _wrong_text(key: str, target: bytes) -> Why | None:
    try:
        return None if captions_of(target) else ("no_txt", f"{key}.txt has no caption")
    except UnicodeDecodeError as error:
        return "bad_text", f"{key}.txt is not UTF-8: {error}"


def _members(sample: TarSample) -> str:
    return ", ".join([*sample.parts, *sample.others][:5]) or "no member"
