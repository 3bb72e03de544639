"""What every policy for text tokens is to the loader."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from neuclip.foundation.modules import the_class_in
from neuclip.loading.visits import Visit
from neuclip.towers.text_tokens.config import TextTokensConfig


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


def build_text_tokens(
    config: TextTokensConfig, tokenize: Callable[[list[str]], Int64[Tensor, "N L"]]
) -> TextTokens:
    """Make the policy that a section names."""
    return the_class_in(f"neuclip.towers.text_tokens.{config.name}", TextTokens)(config, tokenize)
