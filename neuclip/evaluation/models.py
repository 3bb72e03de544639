"""Models of anyone, scored without a recipe."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from neuclip.evaluation.config import STAGE_VERSION
from neuclip.evaluation.part import STAGE, part_identity, parts_of, read_score
from neuclip.evaluation.run import put_together, read_sets
from neuclip.evaluation.score import SetScore
from neuclip.foundation.progress import Progress
from neuclip.stages.keys import stage_key
from neuclip.stages.part_work import do_parts
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.cache import local_folder
from neuclip.towers.encode import scoring_device
from neuclip.towers.files import require_model_files, weights_sha256
from neuclip.towers.folder import load_towers


class Evaluated(NamedTuple):
    """A model and its scores.

    Args:
        model: the folder that was asked for.
        uri: of the committed evaluation.
    """

    model: str
    uri: str
    rows: list[SetScore]


def evaluate_models(
    model_uris: Sequence[str],
    set_uris: Sequence[str],
    *,
    root: str,
    batch_size: int,
    progress: Progress,
    pool: Pool = LOCAL,
    force: bool = False,
) -> list[Evaluated]:
    """Score folders of open_clip models on sets; each is committed as an evaluate stage is.

    A model that was scored on a set before, in a journey or here, is not scored on it again.

    Raises: DataError: for a folder that is no model, or a set that cannot be scored. CheckpointError: for a model that
        cannot be loaded. ConfigError: for two sets of one name.
    """
    suites = read_sets(set_uris)
    folders = {uri: _local(uri) for uri in model_uris}
    known_as = {uri: weights_sha256(folder) for uri, folder in folders.items()}
    loads = {
        known_as[uri]: partial(load_towers, folder, scoring_device())
        for uri, folder in folders.items()
    }
    parts = parts_of(loads, suites, batch_size=batch_size, root=root, pool=pool, force=force)
    do_parts(parts, pool=pool, progress=progress, force=force)
    evaluated: list[Evaluated] = []
    for uri in model_uris:
        sha256 = known_as[uri]
        of_model = [
            part_identity(sha256, suite, batch_size=batch_size, root=root).uri for suite in suites
        ]
        inputs = {"model": sha256, **{suite.name: suite.suite_version for suite in suites}}
        section = {"batch_size": batch_size}
        key = stage_key(STAGE, STAGE_VERSION, section, inputs)
        identity = StageIdentity(STAGE, STAGE_VERSION, key, section, inputs, root)
        commit_stage(identity, partial(_put_together, of_model), force=force)
        evaluated.append(Evaluated(uri, identity.uri, [read_score(part) for part in of_model]))
    return evaluated


def _local(uri: str) -> Path:
    require_model_files(uri)
    return local_folder(uri)


def _put_together(part_uris: Sequence[str], workspace: Workspace) -> Outcome:
    return put_together(part_uris, workspace)
