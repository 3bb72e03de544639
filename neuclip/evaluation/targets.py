"""What a sample of an evaluation set is held against, or why it cannot be scored."""

from neuclip.evaluation.kinds.kind import Kind, Why
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.loading.tar_samples import IMAGE_SUFFIXES, TarSample

_IMAGE_ORDER = ("webp", "png", "jpg", "jpeg")
"""Which image of a sample with several is scored: CLIP_benchmark's."""


def image_of(sample: TarSample) -> bytes | None:
    """Return the image file of a sample that is scored, None if it has none."""
    return sample.image(_IMAGE_ORDER)


def judge(sample: TarSample, suite: EvaluationSet, kind: Kind) -> tuple[bool, list[Why]]:
    """Tell whether a sample is scored, and why it or pictures beside it are not, a reason for each that is lost."""
    dotted = _dotted_images(sample, kind.suffixes[0])
    if dotted and image_of(sample) is None:
        return False, dotted
    why = _why_not(sample, suite, kind)
    return why is None, dotted + ([] if why is None else [why])


def _why_not(sample: TarSample, suite: EvaluationSet, kind: Kind) -> Why | None:
    if image_of(sample) is None:
        return "no_image", f"the sample {sample.key!r} has {_members(sample)}"
    for suffix in kind.suffixes:
        target = sample.parts.get(suffix)
        if target is None or not target.strip():
            return (
                f"no_{suffix}",
                f"{sample.key}.{suffix} {'is missing' if target is None else 'is empty'}",
            )
    return kind.wrong(sample, suite)


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


def _members(sample: TarSample) -> str:
    return ", ".join([*sample.parts, *sample.others][:5]) or "no member"
