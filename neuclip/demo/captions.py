"""Captions of scenes: an alt text as people write it, and a paraphrase from the other side."""

import numpy as np

from neuclip.demo.scenes import Relation, Scene, Thing

_ALONE = (
    "{a}",
    "a picture of {a}",
    "{a} on a {background} background",
    "just {a}",
    "one {bare} on {background}",
)
_PAIR = (
    "{a} {relation} {b}",
    "{a} is {relation} {b}",
    "a picture of {a} {relation} {b}",
    "{a} {relation} {b} on a {background} background",
    "on {background}: {a} {relation} {b}",
)
_PAIR_REWRITE = (
    "{b} {opposite} {a}",
    "there is {b} {opposite} {a}",
    "the picture shows {b}, which is {opposite} {a}, on a {background} background",
)
_ROW = (
    "{a}, {b} and {c} in a row",
    "from left to right: {a}, {b}, {c}",
    "{a} next to {b} next to {c} on {background}",
)
_ROW_REWRITE = (
    "three shapes in a row, from right to left: {c}, {b}, {a}",
    "{b} between {a} on the left and {c} on the right",
)
_ALONE_REWRITE = (
    "the only shape is {a}, the background is {background}",
    "there is {a} and nothing else",
    "a {background} background with {a}",
)
_WORDS: dict[Relation, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "inside": ("inside", "within"),
    "around": ("around",),
}
OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
}
TEMPLATES = (*_ALONE, *_PAIR, *_PAIR_REWRITE, *_ROW, *_ROW_REWRITE, *_ALONE_REWRITE)
RELATION_WORDS = tuple(word for words in _WORDS.values() for word in words)
_KEEP_SIZE, _KEEP_TEXTURE = 0.7, 0.85


def write_caption(scene: Scene, random: np.random.Generator, *, is_complete: bool = False) -> str:
    """Write an alt text; unless it is complete, sizes and textures are now and then left out."""
    templates = {1: _ALONE, 2: _PAIR, 3: _ROW}[len(scene.things)]
    return _fill(templates, scene, random, is_complete=is_complete)


def write_rewrite(scene: Scene, random: np.random.Generator) -> str:
    """Write a complete paraphrase in which the things come in another order where they can."""
    templates = {1: _ALONE_REWRITE, 2: _PAIR_REWRITE, 3: _ROW_REWRITE}[len(scene.things)]
    return _fill(templates, scene, random, is_complete=True)


def _fill(
    templates: tuple[str, ...], scene: Scene, random: np.random.Generator, *, is_complete: bool
) -> str:
    template = templates[int(random.integers(len(templates)))]
    bare = [_describe(thing, random, is_complete=is_complete) for thing in scene.things]
    names = {letter: with_article(text) for letter, text in zip("abc", bare, strict=False)}
    return template.format(
        **names,
        bare=bare[0],
        background=scene.background,
        relation=relation_words(scene.relation, random),
        opposite=relation_words(OPPOSITE.get(scene.relation), random),
    )


def relation_words(relation: Relation | None, random: np.random.Generator) -> str:
    """Return one of the ways in which captions name a relation."""
    words = _WORDS.get(relation, ("",)) if relation else ("",)
    return words[int(random.integers(len(words)))]


def _describe(thing: Thing, random: np.random.Generator, *, is_complete: bool) -> str:
    says_size, says_texture = random.random(2) < (_KEEP_SIZE, _KEEP_TEXTURE)
    words: list[str] = []
    if says_size or is_complete:
        words.append(thing.size)
    if thing.texture != "plain" and (says_texture or is_complete):
        words.append(thing.texture)
    return " ".join([*words, thing.colour, thing.shape])


def with_article(noun: str) -> str:
    """Return a noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"
