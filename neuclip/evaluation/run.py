"""The evaluate stage: the chosen model scored on every set of the recipe."""

import json

from neuclip.evaluation.config import EvaluateConfig
from neuclip.evaluation.main_metric import main_metric
from neuclip.evaluation.score import SetScore, score_set
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import Progress
from neuclip.loading.evaluation_sets import read_set
from neuclip.stages.committed import committed_folder, require_same
from neuclip.stages.ledger import Ledger, add_ledgers
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.files import sha256_of
from neuclip.towers.encode import scoring_device
from neuclip.towers.folder import load_towers
from neuclip.towers.model import WEIGHTS_FILE


def run_evaluate(
    config: EvaluateConfig, *, select_uri: str, workspace: Workspace, progress: Progress
) -> Outcome:
    """Score the model that `select` chose and write scores.json, a row for each set.

    Raises:
        DataError: for a set that is not in the wds_* layout, that is told by a metric which is not computed here, or
            too few of whose samples can be scored.
        ConfigError: for two sets of one name.
    """
    suites = [read_set(uri) for uri in config.sets]
    for suite in suites:
        main_metric(suite)
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        raise ConfigError(f"evaluate.sets has two sets of one name: {', '.join(sorted(names))}")
    folder = committed_folder(select_uri, "model")
    towers = load_towers(folder, scoring_device())
    model_sha256 = sha256_of(str(folder / WEIGHTS_FILE))
    require_same(
        model_sha256,
        read_manifest(select_uri).summary["model_sha256"],
        f"SHA-256 of the model that {select_uri} chose",
        redo_with="run `--only select --force`",
    )
    rows: list[SetScore] = []
    ledgers: list[Ledger] = []
    for done, suite in enumerate(suites):
        progress("evaluate", done=done, total=len(suites), note=f"scoring {suite.name}")
        row, ledger = score_set(
            towers, suite, batch_size=config.batch_size, model_sha256=model_sha256
        )
        rows.append(row)
        ledgers.append(ledger)
    progress("evaluate", done=len(suites), total=len(suites))
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
    return Outcome(ledger=add_ledgers(ledgers), summary=summary)
