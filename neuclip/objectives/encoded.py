"""What the encoders made of a batch: each view of its images and of its texts as embeddings.

Legend: B local batch, D embedding width, L tokens, W width of a tower.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from neuclip.loading.masked import Masked


class View(NamedTuple):
    """One view of one side of a batch.

    Args:
        raw: embeddings as the tower gives them.
        unit: the same at unit norm.
        states: the tower's tokens after its last norm, where a term asks for them.
    """

    raw: Float[Tensor, "B D"]
    unit: Float[Tensor, "B D"]
    states: Float[Tensor, "B L W"] | None = None


@dataclass(frozen=True)
class Encoded:
    """A batch of one rank, encoded; the view `main` is always there.

    Args:
        images: by view.
        texts: by view.
        sample_ids: of the pairs, the same for all views.
        text_ids: by view; equal numbers are the same text of the same sample.
        masked: by view of texts, the tokens that are to be guessed.
    """

    images: dict[str, View]
    texts: dict[str, View]
    sample_ids: Int[Tensor, " B"]
    text_ids: dict[str, Int[Tensor, " B"]]
    masked: dict[str, Masked] = field(default_factory=dict[str, Masked])
