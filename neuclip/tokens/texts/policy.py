"""What every policy for text tokens is to the loader.

Legend: B texts, L tokens of a context, m of them content.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from neuclip.foundation.modules import the_class_in
from neuclip.loading.visits import Visit
from neuclip.tokens.config import TextTokensConfig
from neuclip.tokens.texts.contents import Contents

_PURPOSE = "text tokens"


class TextTokens(ABC):
    """Makes tokens of the texts of a training batch.

    Args:
        config: its recipe section.
        tokenize: the model's own tokenizer, which evaluation uses.
    """

    def __init__(
        self,
        config: Any,  # noqa: ANN401  # each policy's own section
        tokenize: Callable[[list[str]], Int64[Tensor, "N L"]],
    ) -> None:
        self.config, self.tokenize = config, tokenize

    @abstractmethod
    def __call__(
        self, texts: list[str], visits: Sequence[Visit], view: str
    ) -> Int64[Tensor, "B L"]:
        """Return the tokens of a view of a batch.

        What is random comes from `visit.draws(NAME, view)` alone: the tokens of a visit then depend neither on its
        neighbours in the batch nor on the loading process.

        Args:
            texts: chosen texts of the view.
            visits: whose texts they are.
        """


class ChosenTokens(TextTokens):
    """Keeps m content tokens of a text that has more, in their order; a text that fits stays as it is.

    Raises: ConfigError: for a tokenizer whose content cannot be told apart.
    """

    def __init__(
        self,
        config: Any,  # noqa: ANN401  # each policy's own section
        tokenize: Callable[[list[str]], Int64[Tensor, "N L"]],
    ) -> None:
        super().__init__(config, tokenize)
        self.contents = Contents(tokenize)

    @abstractmethod
    def choose(
        self, ids: Sequence[int], count: int, draws: Callable[[], np.random.Generator]
    ) -> Int64[np.ndarray, " m"]:
        """Return the places of the tokens that are kept, ascending, each once.

        Args:
            ids: content ids of the text, more than `count`.
            count: how many are kept, m.
            draws: gives the random numbers, if any are needed.
        """

    def __call__(
        self, texts: list[str], visits: Sequence[Visit], view: str
    ) -> Int64[Tensor, "B L"]:
        """Return the tokens of a view of a batch."""
        room = self.contents.room
        contents = self.contents.ids(texts)
        fitting = [place for place, ids in enumerate(contents) if len(ids) <= room]
        rows: list[Tensor | None] = [None] * len(texts)
        if fitting:
            own = self.tokenize([texts[place] for place in fitting])
            for place, row in zip(fitting, own, strict=True):
                rows[place] = row
        for place, (ids, visit) in enumerate(zip(contents, visits, strict=True)):
            if len(ids) > room:
                kept = self.choose(ids, room, lambda visit=visit: visit.draws(_PURPOSE, view))
                rows[place] = self.contents.full([ids[one] for one in kept.tolist()])
        return torch.stack([row for row in rows if row is not None])


def build_text_tokens(
    config: TextTokensConfig, tokenize: Callable[[list[str]], Int64[Tensor, "N L"]]
) -> TextTokens:
    """Make the policy that a section names."""
    return the_class_in(f"neuclip.tokens.texts.{config.name}", TextTokens)(config, tokenize)
