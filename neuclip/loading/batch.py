"""A batch of one rank: samples in one view or more."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from neuclip.loading.masked import Masked
from neuclip.loading.shown import Shown
from neuclip.loading.visits import MAIN

Inputs = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""What both towers read: images, texts, and the patches that are kept, by view."""


@dataclass(frozen=True)
class Batch:
    """B samples, each in every view of images and texts; the view `main` is always there. B is the local batch."""

    images: dict[str, UInt8[Tensor, "B 3 H W"]]
    """By view. Not normalised: that is for the device, which gets a quarter of the bytes so."""
    texts: dict[str, Int64[Tensor, "B L"] | Float[Tensor, "B D"]]
    """By view: tokens, or features for a text tower that reads them."""
    sample_ids: Int64[Tensor, " B"]
    text_ids: dict[str, Int64[Tensor, " B"]]
    """By view: the same number for the same text, see `views.text_ids`."""
    corrupt: list[int]
    """Sample ids whose image does not decode; their place is taken by a neighbour in the batch."""
    cpu_ids: Int64[Tensor, " B"]
    """`sample_ids` in main memory, wherever the batch is: to name samples without a wait for the device."""
    shown: dict[str, Shown] = field(default_factory=dict[str, Shown])
    """By view: of which sources the texts are."""
    patches: dict[str, Int64[Tensor, "B n"]] = field(default_factory=dict[str, Tensor])
    """By view of images: which patches the tower reads, ascending; a view that is not here has all of them."""
    masked: dict[str, Masked] = field(default_factory=dict[str, Masked])
    """By view of texts: which tokens are to be guessed; `tokens.mask` says how they stand among the others."""

    @classmethod
    def of_pairs(
        cls, images: Tensor, texts: Tensor, sample_ids: Tensor, corrupt: Sequence[int] = ()
    ) -> "Batch":
        """Return a batch with one view of each side, and the sample's id as that of its text."""
        return cls(
            images={MAIN: images},
            texts={MAIN: texts},
            sample_ids=sample_ids,
            text_ids={MAIN: sample_ids},
            corrupt=list(corrupt),
            cpu_ids=sample_ids.cpu(),
        )

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Move the tensors to page-locked memory; torch's loader calls this."""
        return self._each(lambda tensor: tensor.pin_memory())

    def share_memory(self) -> "Batch":
        """Move the tensors to memory that other processes can be given.

        Raises: RuntimeError: if there is no room.
        """
        for tensor in self._tensors():
            tensor.share_memory_()
        return self

    def inputs(self, *, rows: slice = slice(None), view: str | None = None) -> Inputs:
        """Return what the towers read of some samples, and of one view of each side or of all."""

        def of(views: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: x[rows] for name, x in views.items() if view in (None, name)}

        return of(self.images), of(self.texts), of(self.patches)

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        for views in (self.images, self.texts, self.text_ids, self.patches):
            yield from views.values()
        for masked in self.masked.values():
            yield from masked
        yield self.sample_ids

    def _each(self, do: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            images={view: do(tensor) for view, tensor in self.images.items()},
            texts={view: do(tensor) for view, tensor in self.texts.items()},
            text_ids={view: do(tensor) for view, tensor in self.text_ids.items()},
            patches={view: do(tensor) for view, tensor in self.patches.items()},
            masked={view: Masked(*map(do, masked)) for view, masked in self.masked.items()},
            sample_ids=do(self.sample_ids),
        )
