"""The first tokens of a text, as the model's tokenizer takes them."""

from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor

from neuclip.loading.visits import Visit
from neuclip.tokens.texts.policy import TextTokens


class Truncate(TextTokens):
    """Draws nothing."""

    def __call__(
        self, texts: list[str], visits: Sequence[Visit], view: str
    ) -> Int64[Tensor, "B L"]:
        """Return what evaluation would see of these texts."""
        del visits, view
        return self.tokenize(texts)
