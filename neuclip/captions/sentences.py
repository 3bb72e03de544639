"""Long captions as several short ones: a sentence each, which fits a text tower of 77 tokens."""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from neuclip.captions.derived import DerivedSource

_END = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*\s+(?=\S)|\n+")  # noqa: RUF001


class Sentences(DerivedSource):
    """Every sentence of every text of a source; DreamLIP (arXiv 2403.17007) trains on long captions so."""

    kind: Literal["sentences"] = "sentences"
    of: str = Field(default="alt", description="source whose texts are taken apart")
    min_words: int = Field(default=3, ge=1, description="sentences with fewer words are left out")

    def reads(self) -> list[str]:
        """Return the one source."""
        return [self.of]

    def texts(self, of_pair: Mapping[str, list[str]]) -> list[str]:
        """Return the sentences in order, each once."""
        sentences = [part.strip() for text in of_pair.get(self.of, []) for part in _END.split(text)]
        long_enough = [text for text in sentences if len(text.split()) >= self.min_words]
        return list(dict.fromkeys(long_enough))
