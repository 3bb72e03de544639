"""The images and captions of evaluation sets, scored as pairs are, so that the pool can be held against them."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.curate.contamination import SAMPLES, EvaluationFolders
from neuclip.curate.scores import Embedding, PHash, ScoreConfig
from neuclip.foundation.errors import ConfigError, DataError
from neuclip.foundation.progress import Progress
from neuclip.foundation.text import split_lines
from neuclip.loading.evaluation_sets import EvaluationSet, read_set
from neuclip.loading.tar_samples import TarSample
from neuclip.scoring.pairs import Pair, Partition
from neuclip.scoring.part import commit_scores, part_identity
from neuclip.scoring.scorer import NO_CAPTION, Scorer
from neuclip.scoring.scorers import make_scorer
from neuclip.stages.ledger import make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace

_SAMPLE_SCHEMA = pa.schema({"sample": pa.string(), "captions": pa.list_(pa.string())})


def score_evaluation_sets(
    sets: Sequence[str],
    scores: Sequence[ScoreConfig],
    *,
    root: str,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool = False,
) -> list[EvaluationFolders]:
    """Describe every sample of evaluation sets in the wds_* layout; what is there is found again by its content.

    Args:
        sets: URIs.
        scores: those of kind phash and embedding are computed for the sets, others passed over.

    Raises:
        DataError: for a set that cannot be read, or has no image that decodes.
        IntegrityError: for a tar that is cut off.
        ConfigError: for two sets of one name.
    """
    suites = [read_set(uri) for uri in sets]
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        raise ConfigError(f"two evaluation sets have one name: {', '.join(sorted(names))}")
    scorers = {
        score.name: (score, Loaded(partial(make_scorer, score)))
        for score in scores
        if isinstance(score, PHash | Embedding)
    }
    listed = [_listing(suite, root) for suite in suites]
    scored = {
        name: [_scoring(score, scorer, suite, root) for suite in suites]
        for name, (score, scorer) in scorers.items()
    }
    every = [*(part for parts in scored.values() for part in parts), *listed]
    do_parts(every, pool=pool, progress=progress, force=force)
    return [
        EvaluationFolders(
            suite.name,
            listed[number].identity.uri,
            {name: parts[number].identity.uri for name, parts in scored.items()},
        )
        for number, suite in enumerate(suites)
    ]


def _listing(suite: EvaluationSet, root: str) -> Part:
    """Return the part with the keys and captions of a set."""
    identity = _identity({"kind": "samples"}, "", suite, root)
    return Part(identity, partial(_list_samples, suite), note=f"samples of {suite.name}")


def _list_samples(suite: EvaluationSet, workspace: Workspace, progress: Progress) -> Outcome:
    del progress
    rows = [
        {"sample": sample.key, "captions": _captions(sample, suite)} for sample in suite.samples()
    ]
    table = pa.Table.from_pylist(rows, schema=_SAMPLE_SCHEMA)
    pq.write_table(table, workspace.output / SAMPLES, compression="zstd")
    return Outcome(make_ledger(len(rows), len(rows), {}))


def _scoring(score: ScoreConfig, scorer: Loaded[Scorer], suite: EvaluationSet, root: str) -> Part:
    """Return the part with a score of a set."""
    identity = _identity(score.keyed(), scorer.here().model, suite, root)
    work = partial(_score_set, scorer, suite)
    return Part(identity, work, note=f"{score.name}: evaluation set {suite.name}")


def _score_set(
    scorer: Loaded[Scorer], suite: EvaluationSet, workspace: Workspace, progress: Progress
) -> Outcome:
    del progress
    with _open_set(suite, workspace.scratch / "images") as partition:
        scored = scorer.here().score(partition)
        if not any(reason in (None, NO_CAPTION) for reason in scored.reasons):
            raise DataError(
                f"no image of the evaluation set {suite.name} ({suite.shard_uris[0]}, ...) can be scored; "
                "its samples are KEY.jpg, KEY.png or KEY.webp beside KEY.cls or KEY.txt"
            )
        record = scorer.here().record()
        return commit_scores(partition, scored, record, workspace, where=suite.name)


def _identity(
    section: dict[str, Any], model: str, suite: EvaluationSet, root: str
) -> StageIdentity:
    inputs = {"model": model, "evaluation_set": f"{suite.name} {suite.suite_version}"}
    return part_identity(section, inputs, root)


@contextmanager
def _open_set(suite: EvaluationSet, path: Path) -> Generator[Partition]:
    """Lay the images of a set out in one file, and open it as pairs are opened."""
    pairs: list[Pair] = []
    with path.open("wb") as file:
        for sample in suite.samples():
            content = sample.image() or b""
            captions = _captions(sample, suite)
            pairs.append(
                Pair(
                    uid=sample.key,
                    caption=captions[0] if captions else None,
                    member=sample.key if content else None,
                    offset=file.tell(),
                    size=len(content),
                )
            )
            file.write(content)
    with path.open("rb", buffering=0) as file:
        yield Partition(pairs, lambda pair: os.pread(file.fileno(), pair.size, pair.offset))


def _captions(sample: TarSample, suite: EvaluationSet) -> list[str]:
    """Return the captions of a sample, of which only sets for classification have none."""
    if suite.kind == "classification":
        return []
    lines = split_lines(sample.parts.get("txt", b"").decode("utf-8", errors="replace"))
    return [line.strip() for line in lines if line.strip()]
