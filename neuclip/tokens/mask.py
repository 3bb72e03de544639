"""Which tokens of a text are masked, for a loss that has them guessed (BERT, arXiv 1810.04805).

Legend: B texts, L tokens of a context, M masked tokens of the batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from neuclip.loading.masked import Masked
from neuclip.loading.visits import Visit
from neuclip.tokens.texts.contents import Contents

_PURPOSE = "mask"
_HIDDEN, _REPLACED = 0.8, 0.1
"""Of the chosen tokens: those that the tower sees a mask in place of, and another token; the rest it sees."""


class TokenMask:
    """Chooses tokens of each text, and hides them.

    Definition: each content token is chosen with a chance of `share`, no special one ever. Of the chosen ones 80 % are
    hidden, 10 % become another content token of the vocabulary, 10 % stay. A hidden token of id i stands in the batch
    as ~i, the number -1 - i: the tower knows where its texts end as without the mask, and no vocabulary needs a token
    for it.

    Args:
        share: chance of a content token.
        tokenize: the model's own tokenizer.
    Raises: ConfigError: for a tokenizer whose content cannot be told apart.
    Source: DeCLIP, arXiv 2110.05208; rates and specials in tests/tokens/test_mask.py.
    """

    def __init__(self, share: float, tokenize: Callable[[list[str]], Tensor]) -> None:
        self.share, self.contents = share, Contents(tokenize)
        self._content_ids = np.array(sorted(self.contents.content_ids()), dtype=np.int64)

    def __call__(
        self, tokens: Int64[Tensor, "B L"], visits: Sequence[Visit], view: str
    ) -> tuple[Int64[Tensor, "B L"], Masked]:
        """Return the tokens of a view of a batch with some of them hidden, and which these are.

        What is random comes from `visit.draws("mask", view)` alone.
        """
        rows = tokens.numpy().copy()
        places: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        for number, (row, visit) in enumerate(zip(rows, visits, strict=True)):
            first, last = self.contents.span(row)
            draws = visit.draws(_PURPOSE, view)
            chosen = first + np.flatnonzero(draws.random(last - first) < self.share)
            own, kind = row[chosen], draws.random(len(chosen))
            others = self._content_ids[draws.integers(len(self._content_ids), size=len(chosen))]
            row[chosen] = np.where(
                kind < _HIDDEN, ~own, np.where(kind < _HIDDEN + _REPLACED, others, own)
            )
            places.append(number * len(row) + chosen)
            ids.append(own)
        masked = Masked(*(torch.from_numpy(np.concatenate(each)) for each in (places, ids)))
        return torch.from_numpy(rows), masked
