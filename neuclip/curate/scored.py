"""What the score stage left, as curate reads it: which part holds what of which score."""

from pydantic import BaseModel, ConfigDict

from neuclip.curate.asked import missing_score
from neuclip.curate.contamination import EvaluationFolders
from neuclip.curate.pool import ScoreFolders
from neuclip.stages.committed import committed_bytes, require_same
from neuclip.stages.manifest import part_uri, read_manifest

SCORED = "scored.json"


class ScoredColumns(BaseModel):
    """One score of the pool."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    columns: tuple[str, ...]
    """Of scores.parquet; none for an embedding, whose features lie beside it."""
    parts: tuple[str, ...]
    """Keys of its parts, one for each partition of acquire, in order."""


class ScoredSet(BaseModel):
    """One evaluation set."""

    model_config = ConfigDict(frozen=True)

    name: str
    reason: str
    """Of the pairs that are dropped by it."""
    samples: str
    """Key of the part with samples.parquet."""
    scores: dict[str, str]
    """Name of a score -> key of the part, row for row as samples.parquet."""


class Scored(BaseModel):
    """The content of scored.json."""

    model_config = ConfigDict(frozen=True)

    partitions: tuple[str, ...]
    """Keys of acquire's partitions."""
    scores: tuple[ScoredColumns, ...] = ()
    sets: tuple[ScoredSet, ...] = ()


class ScoreReader:
    """Finds the parts of a committed score stage.

    Raises: IntegrityError: if they were made for other partitions than acquire has.
    """

    def __init__(self, score_uri: str, acquire_uri: str) -> None:
        self._uri = score_uri
        self._scored = Scored.model_validate_json(committed_bytes(score_uri, SCORED))
        require_same(
            list(self._scored.partitions),
            read_manifest(acquire_uri).parts,
            f"partitions that {score_uri} has scored",
            redo_with="run `--only score --force`",
        )

    def columns(self) -> list[ScoreFolders]:
        """Return where each score of the pool lies, in the order of the recipe."""
        return [self._folders(score) for score in self._scored.scores]

    def folders(self, name: str, *, asked_by: str) -> ScoreFolders:
        """Return where a score of the pool lies.

        Raises: ConfigError: if there is none of this name.
        """
        for score in self._scored.scores:
            if score.name == name:
                return self._folders(score)
        raise missing_score(name, [score.name for score in self._scored.scores], asked_by)

    def first_of_kind(self, kind: str) -> ScoreFolders | None:
        """Return where the first score of a kind lies, None if there is none."""
        return next((self._folders(s) for s in self._scored.scores if s.kind == kind), None)

    def sets(self, reason: str) -> list[EvaluationFolders]:
        """Return the evaluation sets by which pairs are dropped for a reason."""
        return [
            EvaluationFolders(
                found.name,
                part_uri(self._uri, found.samples),
                {name: part_uri(self._uri, key) for name, key in found.scores.items()},
            )
            for found in self._scored.sets
            if found.reason == reason
        ]

    def _folders(self, score: ScoredColumns) -> ScoreFolders:
        folders = [part_uri(self._uri, key) for key in score.parts]
        return ScoreFolders(score.name, score.columns, folders)
