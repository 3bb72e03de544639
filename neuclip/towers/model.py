"""The two towers: an open_clip model with the tokenizer and the preprocessing that belong to it."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Generator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import ModelConfig
from neuclip.towers.files import CONFIG_FILE
from neuclip.towers.words import bound_memory


@dataclass(frozen=True)
class Towers:
    """A CLIP and all that is needed to feed it."""

    model: nn.Module
    """As open_clip built it: `visual`, `encode_image`, `encode_text`, `logit_scale`."""
    tokenize: Callable[[list[str]], Int64[Tensor, "N context"]]
    architecture: dict[str, Any]
    """open_clip's `model_cfg`."""
    preprocess: dict[str, Any]
    """open_clip's `preprocess_cfg`: size, mean, std, interpolation, resize_mode, mode, fill_color."""

    @property
    def image_px(self) -> int:
        """Side of the square input in pixels."""
        size = self.preprocess["size"]
        return int(size if isinstance(size, int) else size[0])

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of values in 0..1."""
        return tuple(self.preprocess["mean"])

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, of values in 0..1."""
        return tuple(self.preprocess["std"])

    @property
    def embed_dim(self) -> int:
        """Width of the features of both towers."""
        return int(self.architecture["embed_dim"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def encode_image(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Encode images, not normalised."""
        return cast("Any", self.model).encode_image(pixels, normalize=False)

    def encode_text(self, tokens: Int64[Tensor, "B context"]) -> Float[Tensor, "B D"]:
        """Encode tokens, not normalised."""
        return cast("Any", self.model).encode_text(tokens, normalize=False)

    def text_states(
        self, tokens: Int64[Tensor, "B context"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B context W"]]:
        """Encode tokens, not normalised, and return the states of all tokens after the last norm too."""
        raise NotImplementedError

    def image_features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Encode images to unit-norm features."""
        return cast("Any", self.model).encode_image(pixels, normalize=True)

    def text_features(self, tokens: Int64[Tensor, "B context"]) -> Float[Tensor, "B D"]:
        """Encode tokens to unit-norm features."""
        return cast("Any", self.model).encode_text(tokens, normalize=True)


def create_towers(
    config: ModelConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda architecture: architecture,
) -> Towers:
    """Build the towers with new weights.

    Args:
        change: is given open_clip's `model_cfg` that the section names, and returns the one to build.
        seed: the weights are a pure function of the architecture and this number; the global random
            state is left as it was.
    Raises: ConfigError: for an architecture that open_clip cannot build.
    """
    architecture = change(architecture_of(config))
    with tempfile.TemporaryDirectory() as folder:
        content = json.dumps({"model_cfg": architecture, "preprocess_cfg": {}})
        (Path(folder) / CONFIG_FILE).write_text(content, encoding="utf-8")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return build_from_folder(
                    Path(folder), architecture, load_weights=False, device=device
                )
            except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
                raise ConfigError(
                    f"open_clip cannot build the architecture {config.name or 'in train.model.architecture'}: "
                    f"{error}"
                ) from error


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """List the repeated parts that towers are made of: the members with weights of their outermost lists."""
    found: list[nn.Module] = []
    for part in model.children():
        if isinstance(part, (nn.ModuleList, nn.Sequential)):
            found += [block for block in part if any(True for _ in block.parameters())]
        else:
            found += blocks_of(part)
    return found


def architecture_of(config: ModelConfig) -> dict[str, Any]:
    """Return the open_clip `model_cfg` that a recipe names or writes out.

    Raises: ConfigError: if this open_clip has no such architecture.
    """
    if config.architecture is not None:
        architecture = deepcopy(config.architecture)
    else:
        found = open_clip.get_model_config(str(config.name))
        if found is None:
            raise ConfigError(
                f"this open_clip ({open_clip.__version__}) has no architecture {config.name!r}"
            )
        architecture = cast("dict[str, Any]", found)
    return architecture


def build_from_folder(
    folder: Path,
    architecture: dict[str, Any],
    *,
    load_weights: bool,
    device: str | torch.device,
) -> Towers:
    """Build the towers that a folder's open_clip_config.json describes, by open_clip's own reader of folders.

    Args:
        architecture: what stands there as `model_cfg`, checked by `outside_need`.
    """
    with _without_open_clip_chatter():
        model = open_clip.create_model(
            f"local-dir:{folder}",
            load_weights=load_weights,
            pretrained_image=False,
            pretrained_text=False,
        )
        tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
        bound_memory(tokenize)
    # The form that JSON gives it, so that towers are the same before and after a folder.
    preprocess = json.loads(json.dumps(cast("Any", model.visual).preprocess_cfg))
    size = preprocess["size"]
    if not isinstance(size, int) and size[0] != size[1]:
        raise ConfigError(
            f"vision_cfg.image_size is {tuple(size)}; only square images are supported"
        )
    return Towers(
        model=model.to(device),
        tokenize=cast("Callable[[list[str]], Tensor]", tokenize),
        architecture=architecture,
        preprocess=preprocess,
    )


@contextlib.contextmanager
def _without_open_clip_chatter() -> Generator[None]:
    """Keep open_clip from configuring the root logger and from warning about what is wanted here: new weights."""
    root, quiet = logging.getLogger(), logging.NullHandler()

    def is_serious(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addHandler(quiet)
    root.addFilter(is_serious)
    try:
        yield
    finally:
        root.removeFilter(is_serious)
        root.removeHandler(quiet)
