"""Two towers as one module, where the text tower is none of open_clip's."""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import normalize


class TwoTowers(nn.Module):
    """The image tower of an open_clip model and any module for texts, under open_clip's names.

    Args:
        built: an open_clip model, of which the image tower and the temperature are taken.
        text: maps what it reads to raw embeddings [B, D].
    """

    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None

    def __init__(self, built: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.visual = cast("nn.Module", built.visual)
        self.text = text
        self.logit_scale = cast("nn.Parameter", built.logit_scale)
        self.logit_bias = cast("nn.Parameter | None", built.logit_bias)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:  # noqa: FBT001, FBT002  # open_clip's
        """Return embeddings of images [B, D]."""
        return _scaled(self.visual(image), is_unit=normalize)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:  # noqa: FBT001, FBT002  # open_clip's
        """Return embeddings of what the text tower reads [B, D]."""
        return _scaled(self.text(text), is_unit=normalize)

    def set_grad_checkpointing(self, enable: bool = True) -> None:  # noqa: FBT001, FBT002  # open_clip's
        """Compute blocks again in the backward pass, in towers that have blocks."""
        for tower in cast("list[Any]", [self.visual, self.text]):
            if hasattr(tower, "set_grad_checkpointing"):
                tower.set_grad_checkpointing(enable)


def _scaled(embeddings: Tensor, *, is_unit: bool) -> Tensor:
    return normalize(embeddings, dim=-1) if is_unit else embeddings
