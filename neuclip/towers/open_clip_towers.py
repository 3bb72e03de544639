"""The two towers of one module under open_clip's names, as what training and scoring ask of a tower."""

from dataclasses import dataclass
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from neuclip.foundation.errors import ConfigError
from neuclip.towers.exports import ANYWHERE, Export
from neuclip.towers.tower import TextInputs


@dataclass(frozen=True)
class ImageOf:
    """The image tower of a model."""

    model: nn.Module
    exports: frozenset[Export] = ANYWHERE

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Return raw embeddings."""
        return cast("Any", self.model).encode_image(pixels, normalize=False)


@dataclass(frozen=True)
class TextOf:
    """The text tower of a model."""

    model: nn.Module
    exports: frozenset[Export]

    def __call__(self, inputs: TextInputs) -> Float[Tensor, "B D"]:
        """Return raw embeddings."""
        return cast("Any", self.model).encode_text(inputs, normalize=False)

    def states(self, inputs: TextInputs) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B L W"]]:
        """Return raw embeddings, and the states of the tokens after the final norm, of one forward pass.

        They are heard where they leave the norm, so that the embeddings are those of a plain call.

        Raises: ConfigError: if the tower has no such states.
        """
        heard: list[Tensor] = []

        def hear(module: nn.Module, inputs: object, output: Any) -> None:  # noqa: ANN401  # a tensor, or holds one
            del module, inputs
            heard.append(getattr(output, "last_hidden_state", output))

        hook = _last_with_states(self.model).register_forward_hook(hear)
        try:
            embeddings = self(inputs)
        finally:
            hook.remove()
        return embeddings, heard[-1]


def _last_with_states(model: nn.Module) -> nn.Module:
    """Return the module that token states [B, L, W] leave the text tower by.

    Raises: ConfigError: if there is none.
    """
    text = cast("Any", getattr(model, "text", model))
    if getattr(text, "pooler", None) is not None:
        return text.transformer
    if hasattr(text, "ln_final") and getattr(text, "cls_emb", None) is None:
        return text.ln_final
    raise ConfigError(
        f"the text tower ({type(text).__name__}) has no token states after its final norm: it normalises the pooled "
        "state alone, or reads no tokens; leave out what asks for token states, or take a text tower without embed_cls"
    )
