"""Weights to start a run from: read from a model folder, fitted to the recipe's towers, or refused."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors import SafetensorError
from torch import Tensor

from neuclip.foundation.errors import CheckpointError, ConfigError
from neuclip.storage.cache import local_folder
from neuclip.text_encoder.record import ENCODER, parse_record
from neuclip.towers.files import CONFIG_FILE, WEIGHTS_FILE, require_model_files
from neuclip.towers.folder_content import read_config, read_weights
from neuclip.towers.initial_config import InitialConfig
from neuclip.towers.positions import FIXED_TABLE, IMAGE_TABLES, TEXT_TABLES, resized
from neuclip.towers.towers import Towers

_PREFIX = "module."
_LOGITS = ("logit_scale", "logit_bias")
_MOST_SHOWN = 3
_SIZE = re.compile(r"_\d+$")
_FREE = {
    "image_size",
    "context_length",
    "pos_embed_type",
    "patch_dropout",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "output_tokens",
    "hf_tokenizer_name",
    "hf_model_pretrained",
}
"""Fields of a `model_cfg` that may differ: sizes, what only training does, and what names files."""


@dataclass(frozen=True)
class Start:
    """Towers with their initial weights.

    Args:
        log_scale: the model's log(1 / temperature), and `bias` what it adds to logits; None = the objective's own.
        notes: what was changed on the way, for the log.
        positions: what was done to tables of positions.
    """

    towers: Towers
    log_scale: Tensor | None
    bias: Tensor | None
    notes: list[str]
    positions: list[str]


def start_from(towers: Towers, config: InitialConfig) -> Start:
    """Put a model folder's weights into new towers, in place; their preprocessing becomes that of the image tower.

    Raises:
        DataError: if the folder is no model. CheckpointError: if it cannot be read.
        ConfigError: if it does not fit the towers of the recipe.
    """
    require_model_files(config.model)
    folder = local_folder(config.model)
    theirs = _read_config(folder, config.model)
    tensors, notes = _read_tensors(folder, config.model)
    if config.positions == "regenerate":
        _require_fixed_positions(towers, config)
    if config.towers != "image":
        _require_same_encoder(folder, towers, config.model)
    own = towers.model.state_dict()
    names = [name for name in own if _is_asked(name, config)]
    found = {name: tensor for name, tensor in tensors.items() if _is_asked(name, config)}
    _require_towers(tensors, config)
    positions = [
        _fit_positions(found, name, towers, config)
        for name in (*IMAGE_TABLES, *TEXT_TABLES)
        if name in found and name in names and found[name].shape != own[name].shape
    ]
    _require_same_tensors(found, {name: own[name] for name in names}, config.model)
    _require_same_function(theirs["model_cfg"], towers.architecture, config)
    notes += _load(found, own)
    if config.towers != "text":
        preprocess = {**towers.preprocess, **theirs["preprocess_cfg"]}
        towers = replace(towers, preprocess={**preprocess, "size": towers.preprocess["size"]})
    return Start(towers, *_logits(tensors, config), notes, positions)


def _read_config(folder: Path, where: str) -> dict[str, dict[str, Any]]:
    """Return the folder's `model_cfg` and `preprocess_cfg`; nothing is built of them."""
    try:
        model_cfg, preprocess_cfg = read_config(folder)
        found = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
        sections = [
            *found.values(),
            found["model_cfg"]["vision_cfg"],
            found["model_cfg"]["text_cfg"],
        ]
        if all(isinstance(section, dict) for section in sections):
            return found
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise CheckpointError(
        f"{where}/{CONFIG_FILE} is not a configuration of open_clip: JSON with model_cfg (vision_cfg, text_cfg) and "
        "preprocess_cfg is expected"
    )


def _read_tensors(folder: Path, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the folder's tensors by name, without the prefix that DataParallel gives all of them."""
    try:
        tensors = read_weights(folder)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{where}/{WEIGHTS_FILE} is no file of safetensors that can be read: {error}; copy it again"
        ) from error
    if tensors and all(name.startswith(_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        return tensors, [f"all {len(tensors)} names began with `{_PREFIX}`, which was left out"]
    return tensors, []


def _is_asked(name: str, config: InitialConfig) -> bool:
    """Tell whether a tensor is of a tower that starts from the model; the objective has temperature and bias."""
    if name in _LOGITS:
        return False
    return config.towers in ("both", "image" if name.startswith("visual.") else "text")


def _require_towers(tensors: Mapping[str, Tensor], config: InitialConfig) -> None:
    """Refuse a folder that lacks a tower which is asked for."""
    has = {
        "image" if name.startswith("visual.") else "text" for name in tensors if name not in _LOGITS
    }
    asked = {"image", "text"} if config.towers == "both" else {config.towers}
    if missing := sorted(asked - has):
        raise ConfigError(
            f"train.initial.towers is {config.towers}, and {config.model} has no {' and no '.join(missing)} tower "
            f"({len(tensors)} tensors, {_some(tensors)}); ask for the other one, or name another model"
        )


def _require_same_encoder(folder: Path, towers: Towers, where: str) -> None:
    """Refuse a text tower that has learnt to read the features of another encoder."""
    if ENCODER not in towers.files or not (folder / ENCODER).is_file():
        return
    ours = parse_record(towers.files[ENCODER], ENCODER)
    theirs = parse_record((folder / ENCODER).read_bytes(), f"{where}/{ENCODER}")
    if ours.fingerprint != theirs.fingerprint:
        raise ConfigError(
            f"the text tower of {where} reads features of the encoder {theirs.fingerprint[:12]} ({theirs.model_type}, "
            f"width {theirs.width}), and text_encoder is {ours.fingerprint[:12]}; name the same encoder, or set "
            "train.initial.towers: image"
        )


def _require_fixed_positions(towers: Towers, config: InitialConfig) -> None:
    """Refuse to make positions anew that are learned, or that are not there."""
    table = dict(towers.model.named_parameters()).get(FIXED_TABLE)
    if config.towers != "text" and table is not None and not table.requires_grad:
        return
    what = (
        "text positions"
        if config.towers == "text"
        else "the image tower's positions in train.model"
    )
    raise ConfigError(
        f"train.initial.positions: regenerate makes fixed sin-cos tables anew, and {what} are learned; use "
        "interpolate, or a vision_cfg with pos_embed_type: sin_cos_2d"
    )


def _fit_positions(
    found: dict[str, Tensor], name: str, towers: Towers, config: InitialConfig
) -> str:
    """Give a table of positions the length of the towers' own, where that can be done; say so."""
    own = towers.model.get_parameter(name).detach()
    before = found[name]
    if (
        config.positions == "regenerate"
        and name == FIXED_TABLE
        and before.shape[1:] == own.shape[1:]
    ):
        found[name], how = own.clone(), "made anew"
    else:
        fitted = resized(name, before.float(), towers.model)
        found[name], how = (before if fitted is None else fitted), "interpolated"
    return f"{name} was {how}, {list(before.shape)} became {list(own.shape)}"


def _require_same_tensors(
    found: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str
) -> None:
    """Refuse names and shapes that are not those of the recipe's towers."""
    for name in own:
        if name in found and found[name].shape != own[name].shape:
            raise ConfigError(
                f"{name} is {list(found[name].shape)} in {where}, expected {list(own[name].shape)} as train.model "
                "has it; set train.model to the architecture of these weights, or name another model"
            )
    missing, surplus = own.keys() - found.keys(), found.keys() - own.keys()
    if missing or surplus:
        raise ConfigError(
            f"{where} does not fit train.model: it lacks {len(missing)} tensors ({_some(missing)}) and has "
            f"{len(surplus)} of its own ({_some(surplus)}); set train.model to the architecture of these weights"
        )


def _require_same_function(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], config: InitialConfig
) -> None:
    """Refuse an architecture that takes the same weights and computes something else with them: quick_gelu, heads."""
    for place, was, now in _differences(theirs, ours, config):
        raise ConfigError(
            f"{place} is {was!r} in {config.model}, found {now!r} in train.model: the weights fit, but the tower would "
            f"compute something else; set it to {was!r} in train.model.architecture"
        )


def _differences(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], config: InitialConfig
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what counts and differs: place, their value, ours; a field that is left out has open_clip's default."""
    if (was := bool(theirs.get("quick_gelu"))) != (now := bool(ours.get("quick_gelu"))):
        yield "quick_gelu", was, now
    for tower, section, kind in (
        ("image", "vision_cfg", CLIPVisionCfg),
        ("text", "text_cfg", CLIPTextCfg),
    ):
        if config.towers not in ("both", tower):
            continue
        usual: dict[str, Any] = {field.name: field.default for field in fields(kind)}
        before, after = ({**usual, **cfg[section]} for cfg in (theirs, ours))
        for name in sorted((before.keys() | after.keys()) - _FREE):
            was, now = before.get(name), after.get(name)
            if name == "timm_model_name" and was and now and _family(was) == _family(now):
                continue
            if was != now:
                yield f"{section}.{name}", was, now


def _family(timm_name: str) -> str:
    """Return a name of timm's without tag and image size: vit_base_patch16_siglip of vit_base_patch16_siglip_384."""
    return _SIZE.sub("", timm_name.partition(".")[0])


def _load(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Copy the weights into the model's own tensors, in their precision; say what was converted.

    Raises: ConfigError: if one is not finite.
    """
    converted = {x.dtype for name, x in found.items() if x.dtype != own[name].dtype}
    with torch.no_grad():
        for name, tensor in found.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ConfigError(
                    f"{name} of train.initial.model holds values that are not finite; name another model"
                )
            own[name].copy_(tensor)
    kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in converted))
    return [f"weights in {kinds} were converted to float32"] * bool(kinds)


def _logits(
    tensors: Mapping[str, Tensor], config: InitialConfig
) -> tuple[Tensor | None, Tensor | None]:
    """Return log(1 / temperature) and bias as scalars in float32, where they are kept and there."""
    if config.temperature == "new":
        return None, None
    if "logit_scale" not in tensors:
        raise ConfigError(
            f"{config.model} has no logit_scale to keep the temperature of; set train.initial.temperature: new"
        )
    scale, bias = (tensors.get(name) for name in _LOGITS)
    return (
        None if scale is None else scale.float().reshape(()),
        None if bias is None else bias.float().reshape(()),
    )


def _some(names: Any) -> str:  # noqa: ANN401  # any collection of names
    """Return the first names in order."""
    shown = sorted(names)[:_MOST_SHOWN]
    return ", ".join(shown) + ", ..." * (len(names) > len(shown)) if shown else "none"
