"""The grid of patches that an image tower reads, by its open_clip configuration alone."""

import re
from typing import Any

_PLAIN_TIMM = re.compile(
    r"vit_(?!pe_|s?relpos)\w+?_patch(\d+)(?!\w*(rope|dinov3|sapiens|lingbot))\w*"
)
"""timm's ViTs that add their positions once, before the blocks: of all patches, so that some may be left out."""
_IMAGE_PX = 224


def patch_px(vision_cfg: dict[str, Any]) -> int | None:
    """Return the side of a patch in pixels; None for towers that are no plain ViT: ResNets, windows, stages."""
    timm = vision_cfg.get("timm_model_name")
    if timm:
        found = _PLAIN_TIMM.fullmatch(str(timm).partition(".")[0])
        return int(found[1]) if found else None
    patch = vision_cfg.get("patch_size", 16)
    is_vit = isinstance(vision_cfg.get("layers", 12), int)
    return patch if is_vit and isinstance(patch, int) else None


def native_px(vision_cfg: dict[str, Any]) -> int | None:
    """Return the one image size that open_clip builds a ViT of timm at, by its name; None if any size will do."""
    timm = str(vision_cfg.get("timm_model_name") or "").partition(".")[0]
    found = re.search(r"_(\d{3})$", timm)
    return int(found[1]) if found and _PLAIN_TIMM.fullmatch(timm) else None


def patches_a_side(vision_cfg: dict[str, Any]) -> int | None:
    """Return how many patches lie along a side of a square image; None for towers that are no plain ViT."""
    patch, size = patch_px(vision_cfg), vision_cfg.get("image_size", _IMAGE_PX)
    return size // patch if patch and isinstance(size, int) else None
