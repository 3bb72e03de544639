"""A part of the evaluate stage: one model on one set, kept under the root for every later evaluation of that model."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.evaluation.config import STAGE_VERSION
from neuclip.evaluation.kinds.kind import Columns
from neuclip.evaluation.score import Scored, SetScore, score_models
from neuclip.foundation.progress import Progress
from neuclip.loading.evaluation_sets import EvaluationSet
from neuclip.stages.committed import committed_bytes, committed_folder
from neuclip.stages.keys import stage_key
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import is_committed
from neuclip.stages.part_work import Part
from neuclip.stages.pool import Pool
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace
from neuclip.text_encoder.run import committed_encoder
from neuclip.towers.encode import scoring_device
from neuclip.towers.folder import load_towers
from neuclip.towers.towers import Towers

Load = Callable[[], Towers]
"""Loads a model; can be pickled."""

STAGE = "evaluate"
MOST_AT_ONCE = 8
MODEL = "model"
"""Folder of a select stage."""
_SCORE = "score.json"
SAMPLES = "samples.parquet"
"""What was noted of each image that was scored; all metrics follow from it."""


def load_chosen(select_uri: str, text_encoder_uri: str | None) -> Towers:
    """Load the model that a committed select stage chose, with the encoder whose features it reads, if it reads any."""
    return load_towers(
        committed_folder(select_uri, MODEL),
        scoring_device(),
        encoder=text_encoder_uri and committed_encoder(text_encoder_uri),
    )


def part_identity(
    model_sha256: str, suite: EvaluationSet, *, batch_size: int, root: str
) -> StageIdentity:
    """Return what a model's scores on a set are kept under: both contents, and how images are batched."""
    section = {"batch_size": batch_size}
    inputs = {"model": model_sha256, "set": f"{suite.name} {suite.suite_version}"}
    key = stage_key(STAGE, STAGE_VERSION, section, inputs)
    return StageIdentity(STAGE, STAGE_VERSION, key, section, inputs, root, part=True)


def parts_of(
    models: Mapping[str, Load],
    suites: Sequence[EvaluationSet],
    *,
    batch_size: int,
    root: str,
    pool: Pool,
    force: bool,
) -> list[Part]:
    """Return a part for each set and each model.

    Where one worker does them, the images of a set are decoded once for all models that it is to be scored by, at most
    MOST_AT_ONCE of which are in memory; several workers share out the models.

    Args:
        models: by the hash of their weights.
        force: parts that are committed will be done again.
    """
    parts: list[Part] = []
    at_once = MOST_AT_ONCE if pool.is_here else 1
    names = list(models)
    for first in range(0, len(names), at_once):
        group = {name: models[name] for name in names[first : first + at_once]}
        loaded = Loaded(partial(_load_all, group))
        for suite in suites:
            identities = {
                name: part_identity(name, suite, batch_size=batch_size, root=root) for name in group
            }
            due = [name for name, one in identities.items() if force or not is_committed(one.uri)]
            scored = Loaded(partial(_score, loaded, due, suite, batch_size), slot="scores")
            parts += [
                Part(identity, partial(_write, scored, name), note=f"scoring {suite.name}")
                for name, identity in identities.items()
            ]
    return parts


def _load_all(models: Mapping[str, Load]) -> dict[str, Towers]:
    return {name: load() for name, load in models.items()}


def _score(
    loaded: Loaded[dict[str, Towers]], names: list[str], suite: EvaluationSet, batch_size: int
) -> dict[str, Scored]:
    models = loaded.here()
    return score_models({name: models[name] for name in names}, suite, batch_size=batch_size)


def _write(
    scored: Loaded[dict[str, Scored]], name: str, workspace: Workspace, progress: Progress
) -> Outcome:
    del progress
    row, columns, ledger = scored.here()[name]
    (workspace.output / _SCORE).write_text(row.model_dump_json(indent=1), encoding="utf-8")
    pq.write_table(as_table(columns), workspace.output / SAMPLES)
    return Outcome(ledger=ledger)


def read_score(part_uri: str) -> SetScore:
    """Read the row of a committed part."""
    return SetScore.model_validate_json(committed_bytes(part_uri, _SCORE))


def read_columns(part_uri: str) -> Columns:
    """Read what a committed part noted of each image."""
    table = pq.read_table(pa.BufferReader(committed_bytes(part_uri, SAMPLES)))
    return {name: _values(table.column(name).combine_chunks()) for name in table.column_names}


def as_table(columns: Columns) -> Any:  # noqa: ANN401  # a pyarrow table
    """Return columns as they are kept; a row of several numbers is a list."""
    return pa.table({name: _as_arrow(values) for name, values in columns.items()})


def _as_arrow(values: np.ndarray) -> Any:  # noqa: ANN401  # pyarrow is not typed
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _values(column: Any) -> np.ndarray:  # noqa: ANN401
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    inner = column.flatten().to_numpy(zero_copy_only=False)
    return inner.reshape(len(column), column.type.list_size)
