"""The text tower over features of a frozen encoder: LLM2CLIP's adapter (arXiv 2411.04997).

Legend: B texts, F width of a feature, H width inside a block, D embedding width, L tokens.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from neuclip.text_encoder.encoder import TextEncoder


class FeatureAdapter(nn.Module):
    """Raw features to raw embeddings: the direction of a feature alone counts.

    Definition: x = f / |f|; each block adds W2 gelu(W1 LN(x) + b1) + b2; then LN, and a matrix with a bias. With
    H = 2 F that is blocks (4 F^2 + 5 F) + 2 F + F D + D parameters.

    Args:
        width: F of the features.
        blocks: how many; 0 is the last norm and the matrix alone.
        expansion: H / F.
        embed_dim: D.
    """

    def __init__(self, width: int, *, blocks: int, expansion: int, embed_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, expansion * width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, embed_dim)
        self._is_checkpointing = False
        self._online: list[TextEncoder] = []  # out of reach of state_dict, optimisers and DDP

    def forward(self, inputs: Float[Tensor, "B F"] | Int64[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return embeddings of features; or of tokens as `pack` gives them, in a tower with its encoder at hand."""
        features = inputs
        if not inputs.is_floating_point():
            assert self.encoder is not None, "tokens come to a tower with its encoder alone"
            features = self.encoder.of_packed(inputs)
        x = normalize(features.float(), dim=-1)  # in half precision a sum of squares overflows
        for block in self.blocks:
            if self._is_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.proj(self.norm(x))

    def set_grad_checkpointing(self, enable: bool = True) -> None:  # noqa: FBT001, FBT002  # open_clip's
        """Compute blocks again in the backward pass."""
        self._is_checkpointing = enable

    @property
    def encoder(self) -> "TextEncoder | None":
        """The frozen encoder, where the tower has it at hand."""
        return self._online[0] if self._online else None

    def put_encoder(self, encoder: "TextEncoder") -> None:
        """Encode tokens by a frozen encoder on the way, in place of reading its features."""
        self._online = [encoder]


class _Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """Add what the block makes of its input."""
        return x + self.down(gelu(self.up(self.norm(x))))
