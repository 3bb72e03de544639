"""The variants of the demo: recipes that run on the drawn web.

A variant is one YAML file in `recipes/`, a recipe as users write them. Its paths begin with the default root and the
default folder of the web; with another root both are replaced.
"""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, cast

from neuclip.demo.server import HOST, serving
from neuclip.demo.settings import MODELS, PAIRS, PORT, ROOT, WEB, WebSettings
from neuclip.demo.web import is_drawn, prepare
from neuclip.foundation.errors import ConfigError, nearest
from neuclip.foundation.names import in_known_case
from neuclip.foundation.plain_yaml import parse_yaml
from neuclip.journey import identify
from neuclip.recipe import Recipe, load_recipe
from neuclip.stages.manifest import is_committed
from neuclip.storage.uris import is_local, local_part

_RECIPES = files("neuclip.demo") / "recipes"
_SUFFIX = ".yaml"
_FIRST = "neuclip"
_PAIRS_OF = {"captions": 2_500, "declip": 6_000, "llm2clip": 6_000, "tokens": 6_000}
"""Tiny models on a CPU write a few hundred captions a second; ViTs, and further views, take their time."""


@dataclass(frozen=True, slots=True)
class Example:
    """A recipe of the demo that can be run."""

    recipe: Recipe
    path: Path
    """The recipe as it is run, for `neuclip plan`, `run`, `query` and `explain`."""


def variants() -> list[str]:
    """Return the names of the demo's recipes."""
    names = sorted(entry.name for entry in _RECIPES.iterdir())
    return [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]


def web_beside(root: str) -> Path:
    """Return the folder of the web: beside a local root, at the default place for a root on object storage."""
    if not is_local(root):
        return Path(WEB)
    folder = local_part(root)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    return Path(f"{folder}-web")


def load_variant(
    name: str,
    *,
    root: str,
    web: Path,
    port: int = PORT,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read the recipe of a variant with another root, web and port, then apply overrides.

    Raises: ConfigError: if there is no such variant; and as load_recipe does.
    """
    file = _RECIPES / f"{_known(name)}{_SUFFIX}"
    content = cast("dict[str, Any]", parse_yaml(file.read_bytes()))
    moved = _moved(content, {WEB: str(web), ROOT: root, MODELS: models_at(port)})
    with as_file(file) as path:
        return load_recipe(str(path), {**moved, **(overrides or {})})


def root_of(name: str) -> str:
    """Return where a variant writes unless another root is given: each draws a web of its own."""
    return ROOT if _known(name) == _FIRST else f"{ROOT}-{_known(name)}"


def pairs_of(name: str) -> int:
    """Return how many pairs a variant is made for."""
    return _PAIRS_OF.get(_known(name), PAIRS)


def models_at(port: int) -> str:
    """Return where the model server of a demo is, given the port of its pictures."""
    return f"http://{HOST}:{port + 1}"


@contextmanager
def set_up(
    name: str, settings: WebSettings, *, root: str, overrides: Mapping[str, Any] | None = None
) -> Generator[Example]:
    """Draw the web unless it is there, write the recipe into its folder, and serve what stages ask that are not done.

    A recipe with a text encoder has a tiny one drawn. Pictures are served unless acquire is done; a recipe whose
    captions models write has a server of tiny models unless caption is.

    Raises: ConfigError: if a port is taken, before anything is drawn; and as load_variant and prepare do.
    """
    name, folder = _known(name), settings.folder
    recipe = load_variant(name, root=root, web=folder, port=settings.port, overrides=overrides)
    done: set[str] = set()
    if is_drawn(settings):
        _draw_encoder(recipe, folder)
        done = {stage for stage, at in identify(recipe).items() if is_committed(at.uri)}
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as servers:
        if "acquire" not in done:
            servers.enter_context(serving(folder, settings.port))
        prepare(settings)
        _draw_encoder(recipe, folder)
        if recipe.caption.generate and "caption" not in done:
            from neuclip.demo.model_server import model_server

            servers.enter_context(model_server(folder / "models", settings.port + 1))
        path = folder / f"{name}{_SUFFIX}"
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        yield Example(recipe, path)


def _draw_encoder(recipe: Recipe, folder: Path) -> None:
    """Write the language model that the recipe encodes texts by into the folder of the web, unless it has another."""
    own = folder / "encoder"
    if recipe.text_encoder is not None and recipe.text_encoder.folder == str(own):
        from neuclip.demo.encoder import draw_encoder

        draw_encoder(own)


def _known(name: str) -> str:
    known = variants()
    name = in_known_case(name, known)
    if name not in known:
        raise ConfigError(
            f"the demo has no variant {name!r}; it has {', '.join(known)}.{nearest(name, known)}"
        )
    return name


def _moved(value: Any, places: Mapping[str, str]) -> Any:  # noqa: ANN401  # any YAML value
    """Return a value of a recipe with every path below one of the places moved to another."""
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        return {name: _moved(inner, places) for name, inner in fields.items()}
    if isinstance(value, list):
        return [_moved(inner, places) for inner in cast("list[Any]", value)]
    if isinstance(value, str):
        for place, other in places.items():
            if value == place or value.startswith(f"{place}/"):
                return other + value.removeprefix(place)
    return value
