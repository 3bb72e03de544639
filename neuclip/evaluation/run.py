"""The evaluate stage: the chosen model scored on every set of the recipe."""

import json
from collections.abc import Sequence
from functools import partial

from neuclip.evaluation.config import EvaluateConfig
from neuclip.evaluation.main_metric import main_metric
from neuclip.evaluation.part import MODEL, STAGE, load_chosen, parts_of, read_score
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import Progress
from neuclip.loading.evaluation_sets import EvaluationSet, read_set
from neuclip.stages.committed import committed_folder, require_same
from neuclip.stages.ledger import add_ledgers
from neuclip.stages.manifest import read_manifest
from neuclip.stages.part_work import do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.towers.files import weights_sha256


def run_evaluate(
    config: EvaluateConfig,
    *,
    select_uri: str,
    text_encoder_uri: str | None = None,
    root: str,
    workspace: Workspace,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool = False,
) -> Outcome:
    """Score the model that `select` chose and write scores.json, a row for each set.

    Each set is a part: another list of sets scores only those that are new, and so does another choice of the same
    weights.

    Args:
        text_encoder_uri: of a model that reads features of texts: the stage with their encoder.
        force: score again what was scored.

    Raises:
        DataError: for a set that is not in the wds_* layout, that is told by a metric which is not computed here, or
            too few of whose samples can be scored.
        ConfigError: for two sets of one name.
    """
    suites = read_sets(config.sets)
    model_sha256 = _model_sha256(select_uri)
    load = partial(load_chosen, select_uri, text_encoder_uri)
    parts = parts_of(
        {model_sha256: load},
        suites,
        batch_size=config.batch_size,
        root=root,
        pool=pool,
        force=force,
    )
    do_parts(parts, pool=pool, progress=progress, force=force)
    progress(STAGE, done=len(suites), total=len(suites))
    return put_together([part.identity.uri for part in parts], workspace)


def read_sets(uris: Sequence[str]) -> list[EvaluationSet]:
    """Read what sets are.

    Raises:
        DataError: for a set that is not in the wds_* layout, or that is told by a metric which is not computed here.
        ConfigError: for two sets of one name.
    """
    suites = [read_set(uri) for uri in uris]
    for suite in suites:
        main_metric(suite)
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        raise ConfigError(f"evaluate.sets has two sets of one name: {', '.join(sorted(names))}")
    return suites


def put_together(part_uris: Sequence[str], workspace: Workspace) -> Outcome:
    """Write scores.json of a model's committed parts, a row for each set."""
    rows = [read_score(uri) for uri in part_uris]
    manifests = [read_manifest(uri) for uri in part_uris]
    (workspace.output / "scores.json").write_text(
        json.dumps([row.model_dump() for row in rows], indent=1), encoding="utf-8"
    )
    summary = {
        row.set: {
            "metric": row.main_metric,
            "source": row.main_metric_source,
            "value": row.main_value,
            "not_scored": row.not_scored,
        }
        for row in rows
    }
    return Outcome(
        ledger=add_ledgers(manifest.ledger for manifest in manifests),
        summary=summary,
        parts=[manifest.key for manifest in manifests],
    )


def _model_sha256(select_uri: str) -> str:
    """Return the hash of the weights that are scored, which must be those that were chosen."""
    sha256 = weights_sha256(committed_folder(select_uri, MODEL))
    require_same(
        sha256,
        read_manifest(select_uri).summary["model_sha256"],
        f"SHA-256 of the model that {select_uri} chose",
        redo_with="run `--only select --force`",
    )
    return sha256
