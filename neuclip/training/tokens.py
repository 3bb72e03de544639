"""The tokens of a phase: image size, text length and policies, and whether they fit the architecture."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from neuclip.foundation.errors import ConfigError
from neuclip.tokens.config import ResizeConfig, TruncateConfig
from neuclip.tokens.images.policy import PatchPolicy, build_patch_policy
from neuclip.tokens.patch_grid import native_px, patch_px, patches_a_side

if TYPE_CHECKING:
    from neuclip.training.config import TrainConfig

_FIXED = "sin_cos_2d"


def sized(architecture: dict[str, Any], config: "TrainConfig") -> dict[str, Any]:
    """Return an open_clip `model_cfg` with the image size and the text length of a phase."""
    changed = deepcopy(architecture)
    if config.image_px is not None:
        changed["vision_cfg"]["image_size"] = config.image_px
    if config.context_length is not None:
        changed["text_cfg"]["context_length"] = config.context_length
    return changed


def patch_policy(architecture: dict[str, Any], config: "TrainConfig") -> PatchPolicy | None:
    """Return the policy for patches of a phase; None if the tower reads all of them.

    Args:
        architecture: open_clip's `model_cfg` with the phase's sizes.
    Raises: ConfigError: if the policy does not fit the tower.
    """
    if isinstance(config.image_tokens, ResizeConfig):
        return None
    vision = architecture["vision_cfg"]
    side = patches_a_side(vision)
    if side is None:
        raise ConfigError(
            f"image_tokens: {config.image_tokens.name} leaves patches out before the blocks of a plain ViT, and the "
            f"image tower {vision.get('timm_model_name') or 'of train.model'} is none (a ResNet, or one with windows "
            "or stages); take {name: resize} and a smaller image_px"
        )
    if vision.get("patch_dropout"):
        raise ConfigError(
            f"vision_cfg.patch_dropout {vision['patch_dropout']} drops patches by draws that no key repeats, in "
            f"addition to image_tokens: {config.image_tokens.name}; set patch_dropout to 0 in train.model.architecture"
        )
    return build_patch_policy(config.image_tokens, side)


def _refuse_tokens(config: "TrainConfig", kind: str) -> None:
    """Refuse what chooses tokens beside a text tower that reads none."""
    if not isinstance(config.text_tokens, TruncateConfig):
        raise ConfigError(
            f"text_tokens: {config.text_tokens.name} chooses tokens of texts, and train.model.text.kind {kind} reads "
            "features of whole texts; leave text_tokens out"
        )
    if config.context_length is not None:
        raise ConfigError(
            f"context_length {config.context_length} is of tokens, and train.model.text.kind {kind} reads features of "
            "whole texts; leave it out, and set text_encoder.max_tokens"
        )


def check_tokens(config: "TrainConfig", *, is_first: bool) -> None:
    """Check the token settings of a phase against the architecture, without building it.

    Args:
        is_first: whether no phase is before it, whose positions it would begin with.
    Raises: ConfigError: saying which do not fit.
    """
    architecture = sized(config.model.model_cfg(), config)
    vision = architecture["vision_cfg"]
    size, patch = vision.get("image_size", 224), patch_px(vision)
    if patch and isinstance(size, int) and size % patch:
        raise ConfigError(
            f"image_px {size} is not a multiple of the image tower's patches of {patch} pixels; take "
            f"{size // patch * patch or patch} or {(size // patch + 1) * patch}"
        )
    native = native_px(vision)
    if config.image_px is not None and native not in (None, config.image_px):
        raise ConfigError(
            f"image_px {config.image_px} is not the size of {vision['timm_model_name']}, which open_clip builds at "
            f"{native} pixels alone; leave image_px out, or write a ViT of open_clip's own out in "
            "train.model.architecture"
        )
    patch_policy(architecture, config)
    text = config.model.text
    if text is not None and text.reads_features:
        _refuse_tokens(config, text.kind)
    is_fixed = vision.get("pos_embed_type") == _FIXED
    if config.learn_positions and not is_fixed:
        raise ConfigError(
            f"learn_positions is for the fixed positions of vision_cfg.pos_embed_type: {_FIXED}; those of train.model "
            "are learned at all times; leave it out"
        )
    if config.positions == "regenerate" and not is_fixed and not is_first:
        raise ConfigError(
            f"positions: regenerate makes the fixed table of vision_cfg.pos_embed_type: {_FIXED} anew, and the "
            "positions of train.model are learned; use interpolate"
        )
