"""The two towers: an open_clip model with the tokenizer and the preprocessing that belong to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuclip.towers.tower import ImageTower, TextInputs, TextTower


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
    image: ImageTower
    text: TextTower
    files: Mapping[str, bytes]
    """What the model folder holds beside configuration and weights: name -> content."""

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

    def encode_image(
        self, pixels: Float[Tensor, "B 3 H W"], patches: Int64[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Encode images, or some patches of each, to raw embeddings, not of unit norm."""
        return self.image(pixels, patches)

    def encode_text(self, inputs: TextInputs) -> Float[Tensor, "B D"]:
        """Encode tokens, or what else the text tower reads, to raw embeddings, not of unit norm."""
        return self.text(inputs)

    def text_states(
        self,
        tokens: Int64[Tensor, "B L"],
        *,
        mask: Tensor | None = None,
        is_bidirectional: bool = False,
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B L W"]]:
        """Return raw embeddings of texts, and the states of their tokens after the final norm; see `TextTower.states`.

        Raises: ConfigError: if the text tower has no such states.
        """
        return self.text.states(tokens, mask=mask, is_bidirectional=is_bidirectional)

    def image_features(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Encode images to unit-norm features."""
        return cast("Any", self.model).encode_image(pixels, normalize=True)

    def text_features(self, inputs: TextInputs) -> Float[Tensor, "B D"]:
        """Encode tokens, or what else the text tower reads, to unit-norm features."""
        return cast("Any", self.model).encode_text(inputs, normalize=True)
