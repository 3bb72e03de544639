"""The select stage: every kept checkpoint scored, one chosen and copied."""

import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.loading.selection_split import Pair, read_selection_split
from neuclip.selection.average import Candidate, best_average
from neuclip.selection.choose import choose, with_average
from neuclip.selection.config import SelectConfig
from neuclip.selection.score import CheckpointScore, score_towers
from neuclip.stages.committed import committed_files
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Outcome, Workspace
from neuclip.storage.uris import join
from neuclip.towers.encode import scoring_device
from neuclip.towers.files import model_files, weights_sha256
from neuclip.towers.folder import load_towers

_CHECKPOINTS = "checkpoints"
_CHECKPOINT_FILE = "checkpoint.json"


def run_select(
    config: SelectConfig,
    *,
    train_uri: str,
    shard_uri: str,
    index_uri: str,
    workspace: Workspace,
    progress: Progress,
) -> Outcome:
    """Score all kept checkpoints on the held-out split and copy the best.

    Writes scores.json (all, by step), choice.json and model/ (the chosen towers as open_clip reads them).
    Raises: DataError: if there is no checkpoint or the split is too small. CheckpointError: for a broken one.
    """
    names = _committed_checkpoints(train_uri)
    if not names:
        raise DataError(
            f"no checkpoint in {join(train_uri, _CHECKPOINTS)}; run the train stage to its end first"
        )
    pairs = read_selection_split(shard_uri, index_uri, max_samples=config.max_samples)
    candidates: list[Candidate] = []
    for done, name in enumerate(names):
        progress("select", done=done, total=len(names), note=f"scoring {name}")
        folder = _local_towers(train_uri, name)[0].parent
        candidates.append(
            Candidate(_score(folder, pairs, batch_size=config.batch_size), folder, [])
        )
    choice = choose([one.row for one in candidates], metric=config.metric)
    chosen = next(one for one in candidates if one.row.step == choice.step)
    if config.average:
        progress("select", done=len(names), total=len(names), note="averaging checkpoints")
        verdict = best_average(
            config,
            candidates,
            chosen,
            pairs,
            score=partial(_score_like, batch_size=config.batch_size),
            scratch=workspace.scratch,
        )
        candidates.append(verdict.average)
        choice = with_average(choice, verdict)
        chosen = verdict.average if verdict.is_better else chosen
    progress("select", done=len(names), total=len(names), note=choice.why)
    rows = [one.row for one in candidates]
    # What is not averaged says nothing of it: such files are those of recipes without averages, to the byte.
    (workspace.output / "scores.json").write_text(
        json.dumps([row.model_dump(exclude_defaults=True) for row in rows], indent=1),
        encoding="utf-8",
    )
    (workspace.output / "choice.json").write_text(
        choice.model_dump_json(indent=1, exclude_defaults=True), encoding="utf-8"
    )
    (workspace.output / "model").mkdir()
    for name in model_files(path.name for path in chosen.folder.iterdir()):
        shutil.copyfile(chosen.folder / name, workspace.output / "model" / name)
    return Outcome(
        ledger=make_ledger(len(rows), 1, {"lower_score": len(rows) - 1}),
        summary=choice.model_dump(exclude_defaults=True),
    )


def _score(folder: Path, pairs: list[Pair], *, batch_size: int) -> CheckpointScore:
    """Score the towers of one local folder."""
    note = json.loads((folder / _CHECKPOINT_FILE).read_text(encoding="utf-8"))
    return score_towers(
        load_towers(folder, scoring_device()),
        pairs,
        batch_size=batch_size,
        step=int(note["step"]),
        samples_seen=int(note["samples_seen"]),
        model_sha256=weights_sha256(folder),
    )


def _score_like(
    folder: Path, pairs: Sequence[Pair], like: CheckpointScore, *, batch_size: int
) -> CheckpointScore:
    """Score towers that have no record of their own."""
    return score_towers(
        load_towers(folder, scoring_device()),
        pairs,
        batch_size=batch_size,
        step=like.step,
        samples_seen=like.samples_seen,
        model_sha256=weights_sha256(folder),
    )


def _committed_checkpoints(train_uri: str) -> list[str]:
    """Return the names of the checkpoints that training committed, oldest first."""
    below = re.compile(rf"{_CHECKPOINTS}/(step-[^/]+)/.+")
    matches = (below.fullmatch(file.name) for file in read_manifest(train_uri).files)
    return sorted({match[1] for match in matches if match})


def _local_towers(train_uri: str, name: str) -> list[Path]:
    """Return the local files of a checkpoint's towers, beside its record; its optimizer state is not fetched."""
    place = f"{_CHECKPOINTS}/{name}/"
    there = [
        file.name.removeprefix(place)
        for file in read_manifest(train_uri).files
        if file.name.startswith(place)
    ]
    files = [place + file for file in (*model_files(there), _CHECKPOINT_FILE)]
    return committed_files(train_uri, files)[:-1]
