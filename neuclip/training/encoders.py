"""Both towers as one module that encodes all views of a batch.

Legend: B local batch, D embedding width, L tokens, W width of a tower, n patches that are kept.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from neuclip.objectives.encoded import View
from neuclip.objectives.terms.term import States
from neuclip.towers.towers import Towers

Views = dict[str, View]


class Encoders(nn.Module):
    """Encodes every view in one forward pass, so that DDP sees one.

    Args:
        states: views of texts whose token states are wanted, and how they are encoded.
        still: parts of the towers that are in evaluation mode at all times.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        towers: Towers,
        states: Mapping[str, States] = MappingProxyType({}),
        *,
        still: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.model = towers.model
        for name, parameter in self.model.named_parameters():
            if name in ("logit_scale", "logit_bias"):  # the objective has the temperature
                parameter.requires_grad_(False)  # noqa: FBT003  # torch's own signature
        self._towers, self._states, self._still = towers, states, still
        std = 255 * torch.tensor(towers.std, device=towers.device)[:, None, None]
        mean = 255 * torch.tensor(towers.mean, device=towers.device)[:, None, None]
        self.register_buffer("pixel_scale", 1 / std, persistent=False)
        self.register_buffer("pixel_shift", mean / std, persistent=False)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  # torch's own signature
        """Set the mode of all parts but those that stay in evaluation mode."""
        super().train(mode)
        for part in self._still:
            part.eval()
        return self

    def forward(
        self,
        images: Mapping[str, Tensor],
        texts: Mapping[str, Tensor],
        patches: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> tuple[Views, Views]:
        """Return the embeddings of images and of texts by view.

        Args:
            images: [B, 3, H, W]; 8-bit images are normalised here, on the device.
            texts: tokens [B, L], or features for a tower that reads them.
            patches: of the views of which the tower reads some patches alone, which [B, n].
        """
        return (
            {name: self._image(pixels, patches.get(name)) for name, pixels in images.items()},
            {name: self._text(name, tokens) for name, tokens in texts.items()},
        )

    def _image(self, pixels: Tensor, patches: Tensor | None) -> View:
        if pixels.dtype == torch.uint8:
            pixels = (pixels * self.pixel_scale).sub_(self.pixel_shift)
        raw = self._towers.encode_image(pixels, patches)
        return View(raw, normalize(raw, dim=-1))

    def _text(self, name: str, tokens: Tensor) -> View:
        how = self._states.get(name)
        if how is not None:
            raw, states = self._towers.text_states(
                tokens, mask=how.mask, is_bidirectional=how.is_bidirectional
            )
            return View(raw, normalize(raw, dim=-1), states)
        raw = self._towers.encode_text(tokens)
        return View(raw, normalize(raw, dim=-1))
