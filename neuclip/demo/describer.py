"""A small network that says what a drawn picture shows: it finds the things, looks at each, and names them.

Legend: B pictures, K = 3 things at most, P side of a picture in pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from neuclip.acquired.images import decode_rgb
from neuclip.demo.captions import OPPOSITE
from neuclip.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    TEXTURES,
    Placed,
    Relation,
    Scene,
    Thing,
    draw,
    make_scene,
)
from neuclip.demo.wordings import state
from neuclip.foundation.randomness import generator

RELATIONS: tuple[Relation, ...] = ("alone", "left of", "above", "inside", "in a row")
"""Each says how many things there are; a scene of another relation is one of these with its things swapped."""
_THINGS = {"alone": 1, "left of": 2, "above": 2, "inside": 2, "in a row": 3}
_MOST = 3
_NAMES = (SHAPES, tuple(COLOURS), TEXTURES)
_BIG_FROM = {"alone": 0.29, "left of": 0.19, "above": 0.19, "inside": 0.28, "in a row": 0.132}
"""Half way between the radii of what is big and what is small in a relation."""
_GROUNDS = tuple(BACKGROUNDS)

_SIDE_PX, _PATCH_PX = 48, 24
_MARGIN = 1.25
"""A thing is looked at in a square of this times its radius."""
_LEAST_RADIUS = 0.05
_LOOKS = 3
_SHIFT, _STRETCH = 0.4, 0.3
"""How far from its thing, in radii and in powers of e, the square may lie while the network learns."""
_VIEW = 902
"""Of the keyed random numbers: no scene of the demo's web is one that was learned from."""
_DRAWINGS, _BATCH, _RATE = 4000, 64, 4e-3
_PLACE_WEIGHT = 20.0

_Pictures = Float[Tensor, "B 3 P P"]
_Boxes = Float[Tensor, "B K 3"]


class Drawings(NamedTuple):
    """Pictures and what they show, things in the order in which they are told."""

    pictures: _Pictures
    relations: Int64[Tensor, " B"]
    grounds: Int64[Tensor, " B"]
    boxes: _Boxes
    """Centre and radius as shares of the side, 0 where there is no thing."""
    names: Int64[Tensor, "B K 3"]
    """Places in the lists of shapes, colours and textures."""
    is_thing: Bool[Tensor, "B K"]


def in_order(scene: Scene) -> Scene:
    """Return the scene told from the left, from the top or from inside."""
    if scene.relation not in ("right of", "below"):
        return scene
    return Scene(scene.things[::-1], scene.places[::-1], OPPOSITE[scene.relation], scene.background)


def drawings(count: int, *, seed: int) -> Drawings:
    """Draw scenes to learn from."""
    pictures = np.zeros((count, _SIDE_PX, _SIDE_PX, 3), np.uint8)
    boxes = np.zeros((count, _MOST, 3), np.float32)
    names = np.zeros((count, _MOST, len(_NAMES)), np.int64)
    relations, grounds = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for number in range(count):
        scene = in_order(make_scene(generator(seed, sample_id=number, view=_VIEW)))
        pictures[number] = np.asarray(draw(scene, _SIDE_PX))
        relations[number] = RELATIONS.index(scene.relation)
        grounds[number] = _GROUNDS.index(scene.background)
        for place, (thing, at) in enumerate(zip(scene.things, scene.places, strict=True)):
            boxes[number, place] = at.x, at.y, at.radius
            said = (thing.shape, thing.colour, thing.texture)
            names[number, place] = [
                known.index(word) for known, word in zip(_NAMES, said, strict=True)
            ]
    return Drawings(
        _pixels(pictures),
        torch.from_numpy(relations),
        torch.from_numpy(grounds),
        torch.from_numpy(boxes),
        torch.from_numpy(names),
        torch.from_numpy(boxes[..., 2] > 0),
    )


class Describer(nn.Module):
    """Finds things in a picture, then looks at each from near, in a better place the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 36, 128),
            nn.ReLU(),
            nn.Linear(128, len(RELATIONS) + len(_GROUNDS) + _MOST * 3),
        )
        self.looker = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 36, 96),
            nn.ReLU(),
            nn.Linear(96, 3 + sum(map(len, _NAMES))),
        )

    def find(self, pictures: _Pictures) -> tuple[Tensor, Tensor, _Boxes]:
        """Return scores of relations and grounds, and where the things are."""
        relations, grounds, boxes = self.finder(pictures).split(
            [len(RELATIONS), len(_GROUNDS), _MOST * 3], dim=1
        )
        return relations, grounds, boxes.view(-1, _MOST, 3)

    def look(self, pictures: _Pictures, boxes: _Boxes) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Look at things from near.

        Returns: how far beside its thing each square lies (in radii, and in powers of e), scores of names [B, K, .].
        """
        seen = self.looker(_patches(pictures, boxes)).view(len(pictures), _MOST, -1)
        beside, *names = seen.split([3, *map(len, _NAMES)], dim=2)
        return beside, tuple(names)

    def fit(self, *, seed: int, steps: int) -> None:
        """Learn from scenes that are drawn for it."""
        known = drawings(min(_DRAWINGS, steps * _BATCH), seed=seed)
        random = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(self.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(known.pictures), (_BATCH,), generator=random)
            loss = self._loss(Drawings(*(column[chosen] for column in known)), random)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    def _loss(self, known: Drawings, random: torch.Generator) -> Tensor:
        relations, grounds, boxes = self.find(known.pictures)
        there = known.is_thing
        loss = functional.cross_entropy(relations, known.relations)
        loss = loss + functional.cross_entropy(grounds, known.grounds)
        loss = loss + _PLACE_WEIGHT * functional.smooth_l1_loss(
            boxes[there], known.boxes[there], beta=0.05
        )
        reach = torch.rand(len(there), _MOST, 1, generator=random)
        drawn = torch.randn(len(there), _MOST, 3, generator=random) * reach
        beside = drawn * torch.tensor([_SHIFT, _SHIFT, _STRETCH])
        found, names = self.look(known.pictures, _moved(known.boxes, beside))
        loss = loss + functional.smooth_l1_loss(found[there], beside[there], beta=0.1)
        for place, scores in enumerate(names):
            loss = loss + functional.cross_entropy(scores[there], known.names[..., place][there])
        return loss

    @torch.inference_mode()
    def scenes(self, pictures: _Pictures) -> list[Scene]:
        """Return what pictures show."""
        relations, grounds, boxes = self.find(pictures)
        for _ in range(_LOOKS):
            beside, _names = self.look(pictures, boxes)
            boxes = _moved_back(boxes, beside)
        _, names = self.look(pictures, boxes)
        chosen = torch.stack([scores.argmax(dim=-1) for scores in names], dim=-1)
        return [
            _scene(RELATIONS[relation], _GROUNDS[ground], at, which)
            for relation, ground, at, which in zip(
                relations.argmax(dim=1).tolist(),
                grounds.argmax(dim=1).tolist(),
                boxes.tolist(),
                chosen.tolist(),
                strict=True,
            )
        ]

    def describe(self, image: bytes) -> str:
        """Say in one sentence what an image shows.

        Raises: DataError: if it does not decode.
        """
        picture = decode_rgb(image).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
        return state(self.scenes(_pixels(np.asarray(picture)[None]))[0])


def _scene(relation: Relation, ground: str, at: list[list[float]], which: list[list[int]]) -> Scene:
    count = _THINGS[relation]
    places = tuple(Placed(*box) for box in at[:count])
    things = [
        Thing(
            SHAPES[shape],
            tuple(COLOURS)[colour],
            TEXTURES[texture],
            "big" if place.radius > _BIG_FROM[relation] else "small",
        )
        for (shape, colour, texture), place in zip(which, places, strict=False)
    ]
    return Scene(tuple(things), places, relation, ground)


def _pixels(pictures: np.ndarray) -> _Pictures:
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255 - 0.5


def _moved(boxes: _Boxes, beside: _Boxes) -> _Boxes:
    """Move squares away from their things."""
    centres, radii = boxes.split([2, 1], dim=2)
    return torch.cat([centres + beside[..., :2] * radii, radii * beside[..., 2:].exp()], dim=2)


def _moved_back(boxes: _Boxes, beside: _Boxes) -> _Boxes:
    """Move squares to their things."""
    centres, radii = boxes.split([2, 1], dim=2)
    radii = radii.clamp(min=_LEAST_RADIUS) / beside[..., 2:].clamp(-1, 1).exp()
    return torch.cat([centres - beside[..., :2] * radii, radii], dim=2)


def _patches(pictures: _Pictures, boxes: _Boxes) -> Tensor:
    """Cut a square around each thing out of its picture."""
    centres, radii = boxes.reshape(-1, 3).split([2, 1], dim=1)
    # affine_grid counts from -1 to 1 along a side
    scale = 2 * _MARGIN * radii.clamp(min=_LEAST_RADIUS)
    turn = torch.cat([torch.eye(2) * scale.unsqueeze(-1), (2 * centres - 1).unsqueeze(-1)], dim=2)
    size = [len(turn), 3, _PATCH_PX, _PATCH_PX]
    grid = functional.affine_grid(turn, size, align_corners=False)
    repeated = pictures.repeat_interleave(_MOST, dim=0)
    return functional.grid_sample(repeated, grid, padding_mode="border", align_corners=False)
