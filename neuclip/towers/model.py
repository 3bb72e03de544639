"""How towers are built: by open_clip, with new weights or those of a model folder."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import open_clip
import torch
from torch import Tensor, nn

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.untrusted_json import require_transformers
from neuclip.text_encoder.record import ENCODER
from neuclip.tokens.tokenizer_files import TOKENIZER_FILES
from neuclip.towers.config import ModelConfig
from neuclip.towers.files import CONFIG_FILE
from neuclip.towers.folder_content import PLACEHOLDER, read_weights
from neuclip.towers.hugging_face_text import TEXT_CONFIG
from neuclip.towers.model_cfg import text_exports, text_kind
from neuclip.towers.open_clip_towers import ImageOf, TextOf
from neuclip.towers.own_tokenizer import load_tokenizer
from neuclip.towers.text_kind import TextKind
from neuclip.towers.towers import Towers
from neuclip.towers.two_towers import TwoTowers
from neuclip.towers.words import bound_memory


def create_towers(
    config: ModelConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda architecture: architecture,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> Towers:
    """Build the towers with new weights, but for those of a folder that the recipe names.

    Args:
        change: is given open_clip's `model_cfg` that the section names, and returns the one to build.
        seed: the weights are a pure function of the architecture and this number; the global random
            state is left as it was.
        beside: further files that belong to the model folder: name -> content.
    Raises: ConfigError: for an architecture that cannot be built, or a tokenizer that does not fit it.
    """
    architecture = change(config.model_cfg())
    with tempfile.TemporaryDirectory() as folder:
        content = json.dumps({"model_cfg": architecture, "preprocess_cfg": {}})
        (Path(folder) / CONFIG_FILE).write_text(content, encoding="utf-8")
        for name, found in {**config.files(), **beside}.items():
            (Path(folder) / name).write_bytes(found)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                towers = build_from_folder(
                    Path(folder),
                    architecture,
                    load_weights=False,
                    device=device,
                    origin=config.tokenizer or "train.model.text.folder",
                )
            except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
                raise ConfigError(
                    f"open_clip cannot build the architecture {config.name or 'in train.model.architecture'}: "
                    f"{error}"
                ) from error
    if config.text is not None:
        config.text.put_weights(towers)
    return towers


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """List the repeated parts that towers are made of: the members with weights of their outermost lists."""
    found: list[nn.Module] = []
    for part in model.children():
        if isinstance(part, (nn.ModuleList, nn.Sequential)):
            found += [block for block in part if any(True for _ in block.parameters())]
        else:
            found += blocks_of(part)
    return found


def build_from_folder(
    folder: Path,
    architecture: dict[str, Any],
    *,
    load_weights: bool,
    device: str | torch.device,
    origin: str | None = None,
) -> Towers:
    """Build the towers that a folder's open_clip_config.json describes, by open_clip's own reader of folders.

    Args:
        architecture: what stands there as `model_cfg`, checked by `outside_need`.
        origin: where the tokenizer came from, for errors; None is the folder.
    """
    text_cfg, kind = architecture["text_cfg"], text_kind(architecture)
    with _without_open_clip_chatter():
        if kind is None:
            model = _open_clip_model(folder, text_cfg, load_weights=load_weights, device=device)
        else:
            model = _with_own_text(
                folder, kind, architecture, load_weights=load_weights, device=device
            )
        if kind is not None:
            tokenize = kind.tokens_of
        elif text_cfg.get("hf_tokenizer_name"):
            tokenize = load_tokenizer(folder, text_cfg, model, origin=origin or str(folder))
        else:
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
        model=model,
        tokenize=cast("Callable[[list[str]], Tensor]", tokenize),
        architecture=architecture,
        preprocess=preprocess,
        image=ImageOf(model),
        text=TextOf(model, text_exports(architecture)),
        files=_files_of(folder, text_cfg),
    )


def _open_clip_model(
    folder: Path, text_cfg: dict[str, Any], *, load_weights: bool, device: str | torch.device
) -> nn.Module:
    """Let open_clip build the model of a folder; a text tower of the transformers library is described there too."""
    changes: dict[str, Any] = {}
    if "hf_model_name" in text_cfg:
        require_transformers("a text tower from a folder", extra="hf")
        changes["text_cfg"] = text_cfg | {
            "hf_model_name": str(folder),
            "hf_model_pretrained": False,
        }
    return open_clip.create_model(
        f"local-dir:{folder}",
        load_weights=load_weights,
        device=device,
        pretrained_image=False,
        pretrained_text=False,
        **changes,
    )


def _with_own_text(
    folder: Path,
    kind: TextKind,
    architecture: dict[str, Any],
    *,
    load_weights: bool,
    device: str | torch.device,
) -> TwoTowers:
    """Build the image tower by open_clip, the text tower by its kind."""
    built = open_clip.create_model(
        f"local-dir:{folder}",
        load_weights=False,
        device=device,
        pretrained_image=False,
        force_custom_text=True,
        text_cfg=PLACEHOLDER,
    )
    model = TwoTowers(built, kind.build(int(architecture["embed_dim"]))).to(device)
    if load_weights:
        model.load_state_dict(read_weights(folder))
    return model


def _files_of(folder: Path, text_cfg: dict[str, Any]) -> dict[str, bytes]:
    """Return the files beside configuration and weights that belong to a model folder."""
    names = TOKENIZER_FILES if text_cfg.get("hf_tokenizer_name") else ()
    if "hf_model_name" in text_cfg:
        names = (TEXT_CONFIG, *names)
    if "kind" in text_cfg:
        names = (ENCODER, *names)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


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
