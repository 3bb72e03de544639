"""The data sets that the objectives are compared on, in memory.

`scenes`: two coloured shapes in a relation with a complete caption, drawn from a seed; any number
of them. Held out: scenes whose captions are not among the training captions, and single shapes to
be told apart by colour and shape. `other scenes`: the same from another seed, on which settings are
chosen that are then shown on `scenes`.

`pairs`: real pictures with texts of people, from a folder with `pairs.parquet` and `zips/`; see
`bench.objectives.pairs`.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.objectives import pairs
from neuclip.demo.captions import write_caption
from neuclip.demo.evaluation_sets import CLASSES, TEMPLATES
from neuclip.demo.scenes import Scene, draw, make_scene, make_single
from neuclip.foundation.randomness import generator

_SEEDS = {"scenes": 0, "other scenes": 1}
_TRAIN_VIEW, _HELD_OUT_VIEW, _SINGLE_VIEW = 30, 31, 32
_HELD_OUT, _SINGLES = 2000, 960


@dataclass(frozen=True)
class DataSet:
    """Training pairs, a held-out retrieval set and a held-out classification set."""

    images: Tensor
    """uint8 [n, 3, px, px]; row i is sample i."""
    captions: list[str]
    held_out_images: Tensor
    held_out_captions: list[str]
    class_prompts: list[list[str]]
    """Prompts of each class, as many for each."""
    class_images: Tensor
    class_targets: Tensor
    more_captions: list[list[str]] = field(default_factory=list)
    """Further texts of each training sample; an empty list where there are none."""
    held_out_longest: list[str] = field(default_factory=list)
    class_longest: list[str] = field(default_factory=list)
    """The longest further text of each held-out sample, and of each class; empty where there are none."""

    def texts_of(self, sample: int, source: str) -> list[str]:
        """Return the texts of a training sample by source: its caption is `alt`, all others are `extra`."""
        return [self.captions[sample]] if source == "alt" else self.more_captions[sample]

    def __len__(self) -> int:
        return len(self.captions)


def load(name: str, *, count: int, image_px: int, folder: Path | None = None) -> DataSet:
    """Return a data set with `count` training pairs.

    Args:
        folder: where the real pairs are.
    """
    if name in _SEEDS:
        return _scenes(count, image_px, _SEEDS[name])
    if name != "pairs" or folder is None:
        raise ValueError(
            f"data set {name!r}; known are {', '.join(_SEEDS)} and pairs, which needs its folder"
        )
    found = _pairs(folder, image_px)
    if count != len(found):
        raise ValueError(f"the folder of pairs holds {len(found)} training pairs, not {count}")
    return found


@functools.lru_cache(maxsize=2)
def _scenes(count: int, image_px: int, seed: int) -> DataSet:
    rows = [_pair_of_things(number, _TRAIN_VIEW, seed) for number in range(count)]
    known = {caption for _, caption in rows}
    unseen = (_pair_of_things(number, _HELD_OUT_VIEW, seed) for number in itertools.count())
    held_out = list(
        itertools.islice((row for row in unseen if row[1] not in known), min(_HELD_OUT, count))
    )
    targets = torch.arange(_SINGLES) % len(CLASSES)
    singles = [_single(number, int(targets[number]), seed) for number in range(_SINGLES)]
    return DataSet(
        images=_drawn((scene for scene, _ in rows), count, image_px),
        captions=[caption for _, caption in rows],
        held_out_images=_drawn((scene for scene, _ in held_out), len(held_out), image_px),
        held_out_captions=[caption for _, caption in held_out],
        class_prompts=[
            [template.format(c=f"{colour} {shape}") for template in TEMPLATES]
            for colour, shape in CLASSES
        ],
        class_images=_drawn(iter(singles), _SINGLES, image_px),
        class_targets=targets,
    )


def _pair_of_things(number: int, view: int, seed: int) -> tuple[Scene, str]:
    random = generator(seed, sample_id=number, view=view)
    scene = _first(lambda: make_scene(random), lambda scene: len(scene.things) == 2)
    return scene, write_caption(scene, random, is_complete=True)


def _first(make: Callable[[], Scene], fits: Callable[[Scene], bool]) -> Scene:
    while not fits(made := make()):
        pass
    return made


def _single(number: int, target: int, seed: int) -> Scene:
    colour, shape = CLASSES[target]
    return make_single(generator(seed, sample_id=number, view=_SINGLE_VIEW), shape, colour)


def _drawn(scenes: Iterator[Scene], count: int, image_px: int) -> Tensor:
    images = np.empty((count, image_px, image_px, 3), np.uint8)
    for row, scene in enumerate(scenes):
        images[row] = np.asarray(draw(scene, image_px))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@functools.lru_cache(maxsize=1)
def _pairs(folder: Path, image_px: int) -> DataSet:
    rows = pairs.read_rows(folder)
    images = pairs.read_images(folder, rows, image_px)
    train, held_out, products = (pairs.part(rows, name) for name in pairs.PARTS)
    names = sorted({rows[i]["caption"] for i in products})
    longest = {rows[i]["caption"]: _longest(rows[i]) for i in products}
    return DataSet(
        images=images[train],
        captions=[rows[i]["caption"] for i in train],
        held_out_images=images[held_out],
        held_out_captions=[rows[i]["caption"] for i in held_out],
        class_prompts=[[name] for name in names],
        class_images=images[products],
        class_targets=torch.tensor([names.index(rows[i]["caption"]) for i in products]),
        more_captions=[list(rows[i]["captions_extra"]) for i in train],
        held_out_longest=[_longest(rows[i]) for i in held_out],
        class_longest=[longest[name] for name in names],
    )


def _longest(row: dict[str, Any]) -> str:
    """Return the longest text of a row but its caption, which stands in where there is none."""
    return max(row["captions_extra"], key=len, default=row["caption"])
