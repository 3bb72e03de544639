"""The recipe: one frozen model of everything a run is made of, from YAML and overrides."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from neuclip.acquire.config import AcquireConfig
from neuclip.captions.config import CaptionConfig
from neuclip.curate.asked import asked_scores, asked_sets
from neuclip.curate.config import CurateConfig
from neuclip.evaluation.config import EvaluateConfig
from neuclip.foundation.config import Section, models_in, reserved_in
from neuclip.foundation.errors import ConfigError, StorageError, nearest
from neuclip.foundation.plain_yaml import kind_of, parse_yaml, said_of
from neuclip.index.config import IndexConfig
from neuclip.publishing.config import PublishConfig
from neuclip.scoring.config import AskedScoring, ScoringConfig
from neuclip.selection.config import SelectConfig
from neuclip.shards.config import ShardConfig
from neuclip.storage.files import read_bytes
from neuclip.storage.places import Place, published, without_credentials
from neuclip.text_encoder.config import TextEncoderConfig
from neuclip.towers.cached_features import CachedFeatures
from neuclip.training.config import TrainConfig

_SECTION = "expected a section with fields"
_EXPECTED = {
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dict_type": _SECTION,
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "string_type": "expected text; put it into quotes",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a number that is not infinite",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
}
"""What pydantic says in Python's words."""


class Recipe(Section):
    """A dataset and a model, and how one becomes the other. Relative paths start at the working directory."""

    root: Place = Field(
        description="where all stages write: a local folder or any fsspec URL such as s3://bucket/prefix"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="of everything that is drawn at random"
    )
    acquire: AcquireConfig = Field(description="which URL table to fetch, and how")
    score: ScoringConfig = Field(
        default_factory=ScoringConfig, description="what is computed of pairs, for curate to ask"
    )
    curate: CurateConfig = Field(default_factory=CurateConfig, description="which pairs are kept")
    caption: CaptionConfig = Field(
        default_factory=CaptionConfig, description="which caption sources travel on"
    )
    text_encoder: TextEncoderConfig | None = Field(
        default=None,
        description="a language model that encodes the texts, for a text tower of kind `features`; null is none",
    )
    shard: ShardConfig = Field(default_factory=ShardConfig, description="how pairs are packed")
    index: IndexConfig = Field(default_factory=IndexConfig, description="the sample index")
    train: TrainConfig = Field(description="model, objective and schedule")
    select: SelectConfig = Field(
        default_factory=SelectConfig, description="how the checkpoint is chosen"
    )
    evaluate: EvaluateConfig = Field(
        default_factory=EvaluateConfig, description="what the model is scored on"
    )
    publish: PublishConfig = Field(
        default_factory=PublishConfig, description="what is written about it"
    )

    @model_validator(mode="after")
    def _says_what_training_is_kept_clean_of(self) -> "Recipe":
        decontaminate = self.curate.decontaminate
        if self.evaluate.sets and decontaminate is not None and not decontaminate.sets:
            raise ValueError(
                "curate.decontaminate.sets names no set, and evaluate.sets does: name those there whose pairs must not "
                "be trained on, all of evaluate.sets for a start; or set curate.decontaminate to null, which keeps "
                "such pairs. A set that is added to evaluate.sets alone changes no training data"
            )
        return self

    @model_validator(mode="after")
    def _features_have_an_encoder(self) -> "Recipe":
        text = self.train.model.text
        reads = text is not None and text.reads_features
        if reads and self.text_encoder is None:
            raise ValueError(
                "train.model.text.kind features reads features of a language model; add the section text_encoder with "
                "its folder"
            )
        if not reads and self.text_encoder is not None:
            raise ValueError(
                "text_encoder makes features that train.model does not read; add train.model.text: {kind: features, "
                "width: WIDTH}, or take the section out"
            )
        return self

    def has(self, stage: str) -> bool:
        """Tell whether the recipe has a stage."""
        return getattr(self, stage) is not None

    def having(self, stages: Iterable[str]) -> list[str]:
        """Return those of some stages that the recipe has."""
        return [stage for stage in stages if self.has(stage)]

    def section(self, stage: str) -> Section:
        """Return the section of a stage with what others ask of it: of `score` curate, of `text_encoder` train.

        Raises: ConfigError: if the recipe has no such stage.
        """
        if not self.has(stage):
            raise ConfigError(
                f"the recipe has no section {stage}, so there is no such stage to do; write one, or name another stage"
            )
        if stage == "text_encoder" and self.text_encoder is not None:
            text = self.train.model.text
            width = text.width if isinstance(text, CachedFeatures) else None
            return self.text_encoder.encoding(self.train.all_caption_sources, width=width)
        if stage != "score":
            return getattr(self, stage)
        scores = asked_scores(self.curate, self.score.scores)
        sets = asked_sets(self.curate, scores)
        return AskedScoring(scores=scores, sets=sets, scale=self.score.scale)

    def to_yaml(self) -> str:
        """Return the whole recipe, defaults included, as YAML that load_recipe reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def to_published_yaml(self) -> str:
        """Return the recipe as everybody may read it: see `published`."""
        return yaml.safe_dump(published(self), sort_keys=False, allow_unicode=True)


def load_recipe(source: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from a path or URL and apply overrides (dotted name -> value).

    Raises: ConfigError: naming every field that is wrong, what was found, what is allowed, and the nearest name.
    """
    content = _read(source)
    for name, value in (overrides or {}).items():
        _set(content, name, value)
    return _validated(source, content)


def load_bounded(source: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Do the same for overrides of somebody who may not start programs: reserved fields stay as the file has them.

    Raises: ConfigError: naming the reserved fields that the overrides would change; and as load_recipe does.
    """
    content = _read(source)
    before = reserved_in(Recipe, deepcopy(content))
    for name, value in (overrides or {}).items():
        _set(content, name, deepcopy(value))
    after = reserved_in(Recipe, content)
    changed = sorted(
        place
        for place in {**before, **after}
        if place not in before or place not in after or before[place] != after[place]
    )
    if changed:
        raise ConfigError(
            f"overrides of a deployment cannot change {', '.join(changed)}: such fields name programs, machines and "
            "addresses. Write them into the recipe, in a folder that the deployment allows; an override of the whole "
            "section repeats them as they are there"
        )
    return _validated(source, content)


def _read(source: str) -> dict[str, Any]:
    """Read a recipe's file; say nothing of a file that is none."""
    try:
        text = read_bytes(source)
    except StorageError as error:
        raise ConfigError(f"recipe {source} cannot be read: {error}") from error
    try:
        content = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"recipe {source} is not YAML that can be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"recipe {source} holds {kind_of(content)}, expected sections such as root, acquire, train"
        )
    named = cast("dict[Any, Any]", content)
    known = sum(name in Recipe.model_fields for name in named)
    if 2 * known < len(named) or not known:
        raise ConfigError(
            f"recipe {source} does not look like a recipe: it holds {len(named)} names, {known} of them sections of a "
            f"recipe, which are {', '.join(Recipe.model_fields)}"
        )
    return named


def _validated(source: str, content: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        expected: defaultdict[str, list[str]] = defaultdict(list)
        for detail in error.errors():  # a field of two types has an error for each
            found, wanted = _explain(detail)
            expected[found].append(wanted)
        problems = "\n".join(
            f"  {found}{_alternatives(wanted)}" for found, wanted in expected.items()
        )
        raise ConfigError(f"recipe {source} does not fit:\n{problems}") from None


def _alternatives(wanted: list[str]) -> str:
    """Join what each type of a field would have been content with."""
    first, *others = wanted
    return " or ".join(
        [first, *(other.removeprefix(", ").removeprefix("input should be ") for other in others)]
    )


def parse_override(text: str) -> tuple[str, Any]:
    """Split `a.b=value`, the value read as YAML.

    Raises: ConfigError: if there is no name or no value.
    """
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise ConfigError(
            f"--set {text!r} is not of the form section.field=value, for example train.global_batch=512"
        )
    try:
        return name.strip(), parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(
            f"--set {name.strip()}: the value is not YAML that can be read: {error}"
        ) from error


def _set(content: dict[str, Any], dotted: str, value: Any) -> None:  # noqa: ANN401  # any YAML value
    *sections, field = dotted.split(".")
    place: dict[str, Any] = content
    names = iter(enumerate(sections, start=1))
    for depth, section in names:
        inner = place.setdefault(section, {})
        if isinstance(inner, list):
            _, label = next(names, (0, field))
            inner = _labelled(
                cast("list[Any]", inner), label, f"{dotted}: {'.'.join(sections[:depth])}"
            )
        if inner is None:
            inner = place[section] = {}
        if not isinstance(inner, dict):
            at = ".".join(sections[:depth])
            raise ConfigError(
                f"override {dotted}: {at} is {kind_of(inner)}, not a section with fields"
            )
        place = cast("dict[str, Any]", inner)
    place[field] = value


def _labelled(items: list[Any], label: str, place: str) -> Any:  # noqa: ANN401  # any YAML value
    """Return the item of a list that is called so: by its `name`, its `kind` or its place from 0."""
    labels = [
        str(item.get("name") or item.get("kind")) if isinstance(item, dict) else ""
        for item in items
    ]
    if label in labels:
        return items[labels.index(label)]
    if label.isdecimal() and int(label) < len(items):
        return items[int(label)]
    raise ConfigError(
        f"override {place} has no item {label!r}; it has {', '.join(labels)}.{nearest(label, labels)}"
    )


def _explain(detail: ErrorDetails) -> tuple[str, str]:
    """Say one validation error: field, what was found, nearest name; and what was expected of it."""
    place, fields = _locate(detail["loc"])
    found = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            *section, name = place
            known = ", ".join(sorted(fields))
            where = ".".join(section) or "a recipe"
            why = f"there is no such field in {where}.{nearest(name, fields)} It has: {known}"
            return f"{'.'.join(place)}: {why}", ""
        case "missing":
            return f"{'.'.join(place)}: is missing; it must be given", ""
        case "union_tag_invalid" | "union_tag_not_found":
            context = detail.get("ctx", {})
            known = str(context.get("expected_tags", "")).replace("'", "").split(", ")
            name = str(context.get("tag", "")).replace("None", "nothing")
            where = ".".join([*place, str(context.get("discriminator", "name")).strip("'")])
            why = f"found {name!r}, expected one of {', '.join(known)}.{nearest(name, known)}"
            return f"{where}: {why}", ""
        case "value_error" if isinstance(found, dict):  # fields that do not fit each other
            return ": ".join(filter(None, [".".join(place), _lower_first(detail["msg"])])), ""
        case _:
            expected = _EXPECTED.get(detail["type"]) or _lower_first(detail["msg"])
            said = without_credentials(f"{'.'.join(place)}: found {said_of(found)}")
            return said, f", {without_credentials(expected)}"


def _locate(location: tuple[int | str, ...]) -> tuple[list[str], set[str]]:
    """Return the dotted place of an error without union tags, and the fields of the section it lies in."""
    place: list[str] = []
    model: type[BaseModel] | None = Recipe
    fields: set[str] = set(Recipe.model_fields)
    choices: dict[str, type[BaseModel]] = {}
    is_plain = False
    for part in map(str, location):
        if part in choices and place:
            model, choices = choices[part], {}
            fields = set(model.model_fields)
            continue
        if is_plain and not part.isdecimal():
            continue  # which of the types of a plain field was tried
        if model is not None:
            fields = set(model.model_fields)
        place.append(part)
        if part.isdecimal() and choices:
            continue
        info = model.model_fields.get(part) if model is not None else None
        inner = models_in(info.annotation) if info is not None else []
        is_plain = info is not None and not inner and not _holds_names(info.annotation)
        choices = {tag: choice for choice in inner for tag in _tags(choice)}
        model = inner[0] if len(inner) == 1 else None
    return place, fields


def _holds_names(annotation: Any) -> bool:  # noqa: ANN401  # any type
    """Tell whether a field maps names of a recipe's own."""
    origin = get_origin(annotation)
    return origin in (dict, Mapping) or any(map(_holds_names, get_args(annotation)))


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Return what tells a model of a union from the others: the value that its `kind` or `name` must have."""
    known = (model.model_fields.get(field) for field in ("kind", "name"))
    return next((get_args(info.annotation) for info in known if info is not None), ())


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
