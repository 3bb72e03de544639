"""Which scorer does which kind of score."""

from neuclip.curate.scores import ClipScore, Embedding, Language, PHash, ScoreConfig
from neuclip.scoring.clip import ClipScorer, EmbeddingScorer
from neuclip.scoring.language import LanguageScorer
from neuclip.scoring.phash import PHashScorer
from neuclip.scoring.scorer import Scorer
from neuclip.scoring.tmars import TMarsScorer


def make_scorer(score: ScoreConfig) -> Scorer:
    """Return the scorer that a recipe asks for.

    Raises: CheckpointError: for a model folder that cannot be read. ConfigError: if what it needs is not installed.
    """
    match score:
        case PHash():
            return PHashScorer(score)
        case Language():
            return LanguageScorer(score)
        case ClipScore():
            return ClipScorer(score)
        case Embedding():
            return EmbeddingScorer(score)
        case _:
            return TMarsScorer(score)
