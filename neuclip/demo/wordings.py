"""Other wordings of the demo's captions: what the demo's tiny language model learns to write."""

import re

import numpy as np

from neuclip.demo import captions
from neuclip.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Relation,
    Scene,
    Thing,
)

PHRASE = re.compile(
    rf"(?:({'|'.join(SIZES)}) )?(?:({'|'.join(TEXTURES[1:])}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
)
"""A thing as captions name it: size, texture, colour, shape."""

_SYNONYMS = {"big": ("big", "large", "huge"), "small": ("small", "little", "tiny")}
_ON = {"left of": "on the left of", "right of": "on the right of", "inside": "enclosed by"}
_ALONE = (
    "there is {a}",
    "{a} stands by itself",
    "a drawing of {a}",
    "nothing but {a} is to be seen",
)
_PAIR = (
    "{a} can be seen {relation} {b}",
    "{b} is found {opposite} {a}",
    "a drawing in which {a} stands {relation} {b}",
    "here is {b}, and it is {opposite} {a}",
)
_ROW = (
    "{a}, then {b}, then {c}",
    "side by side: {a}, {b} and {c}",
    "a drawing of {a}, {b} and {c} in a line",
    "{b} has {a} on its left and {c} on its right",
)
_GROUND = ("", " against a {background} background", ", and all the rest is {background}")
_MARK = re.compile(r"\w+|[^\w\s]")
_BEFORE_NONE = re.compile(r" ([,.:;])")


def split_words(text: str) -> list[str]:
    """Return the words and marks of a text."""
    return _MARK.findall(text)


def join_words(words: list[str]) -> str:
    """Return the text of words and marks."""
    return _BEFORE_NONE.sub(r"\1", " ".join(words))


def state(scene: Scene) -> str:
    """Return one sentence that tells all there is to tell, things from left to right, from the top, from inside."""
    named = [
        captions.with_article(" ".join(word for word in _words_of(thing) if word))
        for thing in scene.things
    ]
    relation = scene.relation
    if relation in ("right of", "below"):
        named, relation = named[::-1], captions.OPPOSITE[relation]
    ground = f"on a {scene.background} background"
    if relation == "alone":
        return f"{named[0]} {ground}"
    if relation == "in a row":
        return f"{named[0]}, {named[1]} and {named[2]} in a row {ground}"
    return f"{named[0]} {'to the ' if relation == 'left of' else ''}{relation} {named[1]} {ground}"


def another_wording(text: str, scene: Scene, random: np.random.Generator) -> str:
    """Write another text that says of a scene what a caption says, no more and no less."""
    bare = [_reworded(match.group(0), random) for match in PHRASE.finditer(text)]
    named = dict(zip("abc", map(captions.with_article, bare), strict=False))
    templates = {1: _ALONE, 2: _PAIR, 3: _ROW}[len(bare)]
    is_said = scene.background in split_words(text)
    ground = _GROUND[1 + int(random.integers(2))] if is_said else _GROUND[0]
    template = templates[int(random.integers(len(templates)))] + ground
    return template.format(
        **named,
        relation=_relation(scene.relation, random),
        opposite=_relation(captions.OPPOSITE.get(scene.relation), random),
        background=scene.background,
    )


def known_words() -> list[str]:
    """Return every word and mark of captions, statements and other wordings."""
    texts = [*captions.TEMPLATES, *_ALONE, *_PAIR, *_ROW, *_GROUND]
    texts += [*captions.RELATION_WORDS, *_ON.values(), *COLOURS, *SHAPES, *TEXTURES, *BACKGROUNDS]
    texts += [*SIZES, *(word for words in _SYNONYMS.values() for word in words), "a an in row on"]
    return sorted({word for text in texts for word in split_words(re.sub(r"{\w+}", "", text))})


def _words_of(thing: Thing) -> tuple[str, ...]:
    texture = "" if thing.texture == "plain" else thing.texture
    return thing.size, texture, thing.colour, thing.shape


def _reworded(phrase: str, random: np.random.Generator) -> str:
    first, _, rest = phrase.partition(" ")
    words = _SYNONYMS.get(first, (first,))
    return f"{words[int(random.integers(len(words)))]} {rest}"


def _relation(relation: Relation | None, random: np.random.Generator) -> str:
    if relation is None:
        return ""
    words = captions.relation_words(relation, random)
    return _ON.get(relation, words) if random.random() < 0.3 else words
