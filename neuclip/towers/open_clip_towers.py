"""The two towers of one module under open_clip's names, as what training and scoring ask of a tower.

Legend: B batch, D embedding width, L text length, W width of a tower, P tokens before the N patches, n of these kept.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuclip.foundation.errors import ConfigError
from neuclip.tokens.vocabulary import Vocabulary
from neuclip.towers.exports import ANYWHERE, Export
from neuclip.towers.tower import TextInputs


@dataclass(frozen=True)
class ImageOf:
    """The image tower of a model."""

    model: nn.Module
    exports: frozenset[Export] = ANYWHERE

    def __call__(
        self, pixels: Float[Tensor, "B 3 H W"], patches: Int64[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Return raw embeddings, of some patches of each image if they are named.

        The others are left out where open_clip and timm drop patches: after the positions are added, before the blocks.

        Raises: ConfigError: if the tower has no such place.
        """
        encode = cast("Any", self.model).encode_image
        if patches is None:
            return encode(pixels, normalize=False)
        place, num_prefix = place_of_patches(self.model)

        def keep(module: nn.Module, inputs: object, tokens: Tensor) -> Tensor:
            del module, inputs
            return _kept(tokens, patches, num_prefix=num_prefix)

        hook = place.register_forward_hook(keep)
        try:
            return encode(pixels, normalize=False)
        finally:
            hook.remove()


@dataclass(frozen=True)
class TextOf:
    """The text tower of a model."""

    model: nn.Module
    exports: frozenset[Export]

    def __call__(self, inputs: TextInputs) -> Float[Tensor, "B D"]:
        """Return raw embeddings."""
        return cast("Any", self.model).encode_text(inputs, normalize=False)

    def states(
        self, inputs: TextInputs, *, mask: Tensor | None = None, is_bidirectional: bool = False
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B L W"]]:
        """Return raw embeddings, and the states of the tokens after the final norm, of one forward pass.

        They are heard where they leave the norm, so that the embeddings are those of a plain call. A mask is put in
        where tokens have become vectors.

        Raises: ConfigError: if the tower has no such states. See `TextTower.states`.
        """
        heard: list[Tensor] = []

        def hear(module: nn.Module, inputs: object, output: Any) -> None:  # noqa: ANN401  # a tensor, or holds one
            del module, inputs
            heard.append(getattr(output, "last_hidden_state", output))

        with ExitStack() as hooks:
            hooks.callback(_last_with_states(self.model).register_forward_hook(hear).remove)
            if mask is not None:
                is_hidden_BL = inputs < 0
                inputs = torch.where(is_hidden_BL, ~inputs, inputs)
                put_in = partial(_put_in, is_hidden_BL, mask)
                hooks.callback(_embedding_of(self.model).register_forward_hook(put_in).remove)
            if is_bidirectional and (found := _left_to_right(self.model)) is not None:
                see = partial(_see_all, _attention_to_text(found, self.model, inputs))
                hooks.callback(
                    found.register_forward_pre_hook(see, with_kwargs=True, prepend=True).remove
                )
            embeddings = self(inputs)
        return embeddings, heard[-1]

    def vocabulary(self) -> Vocabulary:
        """Return what tokens the tower reads; see `TextTower.vocabulary`."""
        last = _last_with_states(self.model)
        embedding = _embedding_of(self.model)
        config = getattr(last, "config", None)
        width = config.hidden_size if config is not None else cast("Any", last).normalized_shape[0]
        return Vocabulary(embedding.num_embeddings, embedding.embedding_dim, int(width))


def place_of_patches(model: nn.Module) -> tuple[nn.Module, int]:
    """Return the module by which an image tower drops patches, and how many tokens stand before them.

    Raises: ConfigError: if it has none: it is no plain ViT.
    """
    visual = cast("Any", model).visual
    trunk = getattr(visual, "trunk", None)
    if isinstance(getattr(visual, "patch_dropout", None), nn.Module):
        return visual.patch_dropout, 1
    if isinstance(getattr(trunk, "patch_drop", None), nn.Module):
        return cast("Any", trunk).patch_drop, int(cast("Any", trunk).num_prefix_tokens)
    raise ConfigError(
        f"train.image_tokens leaves patches out before the blocks of a ViT, and the image tower "
        f"({type(trunk or visual).__name__}) has no place for it; set train.image_tokens to {{name: resize}} and train "
        "at a smaller image_px"
    )


def _kept(
    tokens: Float[Tensor, "B P+N W"], patches: Int64[Tensor, "B n"], *, num_prefix: int
) -> Float[Tensor, "B P+n W"]:
    """Return the tokens in front, and the patches that are kept in the order in which they are named."""
    places = patches[..., None].expand(-1, -1, tokens.shape[-1])
    return torch.cat([tokens[:, :num_prefix], tokens[:, num_prefix:].gather(1, places)], dim=1)


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


def _embedding_of(model: nn.Module) -> nn.Embedding:
    """Return the table of a text tower's tokens.

    Raises: ConfigError: if there is none.
    """
    text = cast("Any", getattr(model, "text", model))
    found = getattr(text, "token_embedding", None)
    if found is None and hasattr(text.transformer, "get_input_embeddings"):
        found = text.transformer.get_input_embeddings()
    if not isinstance(found, nn.Embedding):
        raise ConfigError(
            f"the text tower ({type(text).__name__}) has no table of token embeddings that a mask could be put into; "
            "leave out masked_text"
        )
    return found


def _put_in(
    is_hidden_BL: Tensor, mask: Tensor, module: nn.Module, inputs: object, output: Tensor
) -> Tensor:
    """Let hidden tokens be the mask."""
    del module, inputs
    return torch.where(is_hidden_BL[..., None], mask.to(output.dtype), output)


def _left_to_right(model: nn.Module) -> nn.Module | None:
    """Return the blocks of a text tower whose tokens do not see those after them; None if they do."""
    text = cast("Any", getattr(model, "text", model))
    is_causal = getattr(text, "attn_mask", None) is not None
    return text.transformer if is_causal else None


def _attention_to_text(blocks: nn.Module, model: nn.Module, tokens: Tensor) -> Tensor:
    """Return what is added to attention so that every token sees all up to the end of its text, [B heads, L, L]."""
    text = cast("Any", getattr(model, "text", model))
    pool = getattr(text, "text_pool_type", None) or text.pool_type
    ends_B = torch.full_like(tokens[:, 0], tokens.shape[1])
    if pool == "argmax":
        ends_B = tokens.argmax(dim=1)
    elif pool == "eos":
        end = getattr(text, "text_eos_id", None) or text.eos_id
        ends_B = (tokens == end).int().argmax(dim=1)
    is_beyond_BL = torch.arange(tokens.shape[1], device=tokens.device) > ends_B[:, None]
    added_BL = torch.zeros(is_beyond_BL.shape, device=tokens.device)
    added_BL = added_BL.masked_fill(is_beyond_BL, -torch.inf)
    heads = cast("Any", blocks).resblocks[0].attn.num_heads
    added_BLL = added_BL[:, None].expand(-1, tokens.shape[1], -1)
    return added_BLL.repeat_interleave(heads, dim=0)


def _see_all(
    attention: Tensor, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Put another mask of attention in the place of the tower's own."""
    del module
    return args, {**kwargs, "attn_mask": attention.to(args[0].dtype)}
