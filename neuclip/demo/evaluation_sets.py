"""The demo's evaluation sets, in the layout of wds_* benchmark sets: scenes that are not in the URL table."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from neuclip.demo.captions import write_caption
from neuclip.demo.scenes import COLOURS, SHAPES, draw, encode, make_scene, make_single
from neuclip.demo.settings import WebSettings
from neuclip.foundation.randomness import generator

CLASSES = [(colour, shape) for colour in list(COLOURS)[:6] for shape in SHAPES]
"""The 48 classes of wds_scenes_shapes: six colours by eight shapes."""

TEMPLATES = ("{c}", "a {c}", "a picture of a {c}", "a big {c}", "a small {c}", "just a {c}")

_SHAPES_VIEW, _RETRIEVAL_VIEW = 10, 11
"""Held out: the table's scenes are drawn from other views of the seed."""

Member = tuple[str, bytes]


def write_shapes_set(folder: Path, settings: WebSettings) -> None:
    """Write the zero-shot classification set: single things, to be told apart by colour and shape."""
    members: list[Member] = []
    for number in range(settings.evaluation_scenes):
        target = number % len(CLASSES)
        colour, shape = CLASSES[target]
        random = generator(settings.seed, sample_id=number, view=_SHAPES_VIEW)
        picture = draw(make_single(random, shape, colour), settings.image_px)
        members.append((f"s{number:07d}.cls", str(target).encode()))
        members.append((f"s{number:07d}.jpg", encode(picture)))
    names = [f"{colour} {shape}" for colour, shape in CLASSES]
    _write_test_tar(folder, members)
    _write_lines(folder / "classnames.txt", names)
    _write_lines(folder / "zeroshot_classification_templates.txt", TEMPLATES)


def write_retrieval_set(folder: Path, settings: WebSettings, *, known: set[str]) -> None:
    """Write the retrieval set: complete captions, each once, none of them among `known`."""
    members: list[Member] = []
    taken = set(known)
    number = candidate = 0
    while number < settings.evaluation_scenes:
        random = generator(settings.seed, sample_id=candidate, view=_RETRIEVAL_VIEW)
        candidate += 1
        scene = make_scene(random)
        caption = write_caption(scene, random, is_complete=True)
        if len(scene.things) == 1 or caption in taken:
            continue
        taken.add(caption)
        members.append((f"s{number:07d}.jpg", encode(draw(scene, settings.image_px))))
        members.append((f"s{number:07d}.txt", caption.encode()))
        number += 1
    _write_test_tar(folder, members)
    _write_lines(folder / "dataset_type.txt", ["retrieval"])


def _write_test_tar(folder: Path, members: Iterable[Member]) -> None:
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(
                name
            )  # its time is 0 and its owner nobody: equal bytes every time
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    _write_lines(folder / "test" / "nshards.txt", ["1"])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
