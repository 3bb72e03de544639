"""The way of a sample: plans and runs the stages of the list, one after the other."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import Progress, silent
from neuclip.recipe import Recipe
from neuclip.stage_list import FEEDING, NAMES, STAGES, stage_called
from neuclip.stages.changes import state_of
from neuclip.stages.choices import Chosen, keep_choice, kept_choice
from neuclip.stages.committed import require_same
from neuclip.stages.keys import stage_key
from neuclip.stages.lease import leased, sweep_leases
from neuclip.stages.loaded import release
from neuclip.stages.manifest import Manifest, is_committed, read_manifest
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.revisions import revised_inputs
from neuclip.stages.scratch import scratch_home, sweep_scratch
from neuclip.stages.stage import Estimate, Job, Stage
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.roots import require_folder
from neuclip.storage.uris import join


class StagePlan(BaseModel):
    """What a stage would do now."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    uri: str
    state: str
    """done: committed; partial: begun and not finished; missing: never done with this recipe and these inputs."""
    why: str
    estimate: Estimate = {}
    """What a stage that is not done would ask of others: what -> unit -> how much."""


class StageReport(BaseModel):
    """What a stage did."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    uri: str
    state: str
    """ran or cached."""
    manifest: Manifest
    seconds: float


def identify(recipe: Recipe) -> dict[str, StageIdentity]:
    """Return the identity of every stage: keys follow from the recipe and the inputs' fingerprints alone.

    Raises: DataError: if an input that no stage makes is not there. ConfigError: if the root cannot be a folder.
    """
    require_folder(recipe.root, "root")
    identities: dict[str, StageIdentity] = {}
    for stage in STAGES:
        if recipe.has(stage.name):
            identities[stage.name] = _identity(recipe, stage, identities)
    return identities


def _identity(
    recipe: Recipe, stage: Stage[Any], above: Mapping[str, StageIdentity]
) -> StageIdentity:
    config = _chosen(recipe, stage, above)[0].config
    section = _keyed_section(recipe, stage)
    inputs = _keys(stage, above) | stage.inputs(config)

    def key_of(inputs: dict[str, str]) -> str:
        return stage_key(stage.name, stage.version, section, inputs)

    if stage.is_revisable:
        inputs = revised_inputs(join(recipe.root, stage.name), inputs, key_of)
    return StageIdentity(
        stage=stage.name,
        stage_version=stage.version,
        key=key_of(inputs),
        section=section,
        inputs=inputs,
        root=recipe.root,
    )


def _keys(stage: Stage[Any], identities: Mapping[str, StageIdentity]) -> dict[str, str]:
    """Return the keys of the stages above that the recipe has."""
    return {name: identities[name].key for name in stage.above if name in identities}


def _keyed_section(recipe: Recipe, stage: Stage[Any]) -> dict[str, Any]:
    section = recipe.section(stage.name).keyed()
    return section | ({"seed": recipe.seed} if stage.is_seeded else {})


def _chosen(
    recipe: Recipe, stage: Stage[Any], above: Mapping[str, StageIdentity]
) -> tuple[Chosen[Any], str]:
    """Return a stage's section with nothing left open, and the key of the rest, by which the choice is kept."""
    config = recipe.section(stage.name)
    if stage.choose is None:
        return Chosen(config), ""
    inputs = _keys(stage, above)
    rest = stage_key(stage.name, stage.version, _keyed_section(recipe, stage), inputs)
    kept = kept_choice(join(recipe.root, stage.name), rest)
    return stage.choose(config, recipe.root, kept), rest


def plan(recipe: Recipe) -> list[StagePlan]:
    """Say for every stage whether it is done, and if not, what has changed since the last time.

    Raises: NeuclipError: what would fail a stage that is not done.
    """
    identities = identify(recipe)
    plans: list[StagePlan] = []
    for name, identity in identities.items():
        state, why = state_of(identity)
        stage = stage_called(name)
        if state != "done" and stage.check is not None:
            stage.check(recipe.section(name))
        estimate = {} if state == "done" else _estimate(recipe, stage, identities)
        plans.append(
            StagePlan(
                stage=name,
                key=identity.key,
                uri=identity.uri,
                state=state,
                why=why,
                estimate=estimate,
            )
        )
    return plans


def _estimate(
    recipe: Recipe, stage: Stage[Any], identities: Mapping[str, StageIdentity]
) -> Estimate:
    """Return what a stage would cost; nothing before the stages above are done."""
    above = all(is_committed(identities[name].uri) for name in _keys(stage, identities))
    if stage.estimate is None or not above:
        return {}
    return stage.estimate(_job(recipe, stage, identities, silent, force=False))


def run_stage(
    recipe: Recipe,
    name: str,
    *,
    force: bool = False,
    progress: Progress = silent,
    pool: Pool = LOCAL,
) -> StageReport:
    """Do one stage unless it is done.

    Args:
        force: do it again although it is done.
        pool: does its parts.

    Raises: ConfigError: if a stage above it has not been done.
    """
    stage = stage_called(name)
    recipe.section(stage.name)  # before anything else, if the recipe has none
    identities = identify(recipe)
    _require_above(stage, identities)
    chosen, rest = _chosen(recipe, stage, identities)
    if chosen.choice is not None:
        keep_choice(join(recipe.root, stage.name), rest, chosen.choice)
        identities = identify(recipe)  # with the choice that is kept now
    identity = identities[stage.name]
    start = time.monotonic()

    def work(workspace: Workspace) -> Outcome:
        job = _job(recipe, stage, identities, progress, force=force)
        try:
            outcome = stage.run(replace(job, pool=pool), workspace)
        finally:
            release()
        if stage.fed_by is not None:
            _require_all(outcome, stage, identities[stage.fed_by])
        return outcome

    manifest, ran = commit_stage(identity, work, keep_unfinished=stage.resumes, force=force)
    return StageReport(
        stage=stage.name,
        key=identity.key,
        uri=identity.uri,
        state="ran" if ran else "cached",
        manifest=manifest,
        seconds=round(time.monotonic() - start, 3),
    )


def run_journey(
    recipe: Recipe,
    *,
    stages: Sequence[str] = NAMES,
    force: bool = False,
    progress: Progress = silent,
    on_stage: Callable[[StageReport], None] | None = None,
) -> list[StageReport]:
    """Do stages in order, each unless it is done.

    Raises: NeuclipError: at once, what would fail a stage at its end.
    """
    names = recipe.having(stages) or stages  # of a single one that is not there, the error says so
    for stage in map(stage_called, names):
        if stage.check is not None:
            stage.check(recipe.section(stage.name))
    reports: list[StageReport] = []
    sweep(recipe.root)
    for name in names:
        report = run_stage(recipe, name, force=force, progress=progress)
        reports.append(report)
        if on_stage is not None:
            on_stage(report)
    return reports


def preflight(recipe: Recipe) -> dict[str, Callable[[], str]]:
    """Return the checks of this machine by name; each says what it found or raises what to change.

    Raises: ConfigError: if a stage above one that checks has not been done.
    """
    identities = identify(recipe)
    checks: dict[str, Callable[[], str]] = {}
    for stage in STAGES:
        if stage.preflight is not None and recipe.has(stage.name):
            _require_above(stage, identities)
            checks |= stage.preflight(_job(recipe, stage, identities, silent, force=False))
    return checks


def sweep(root: str) -> None:
    """Remove the leases and scratch folders of runs that were killed."""
    sweep_leases(root)
    sweep_scratch(scratch_home(root))


@contextmanager
def making(recipe: Recipe, name: str) -> Generator[StageIdentity]:
    """Hold the lease on a stage that is worked on outside `run_stage`; yield it as it stands then."""
    while True:
        identity = identify(recipe)[name]
        with leased(identity.root, identity.stage, identity.key):
            if (
                identify(recipe)[name].key == identity.key
            ):  # not revised by the run that this one waited for
                yield identity
                return


def _job(
    recipe: Recipe,
    stage: Stage[Any],
    identities: Mapping[str, StageIdentity],
    progress: Progress,
    *,
    force: bool,
) -> Job[Any]:
    return Job(
        config=_chosen(recipe, stage, identities)[0].config,
        seed=recipe.seed,
        root=recipe.root,
        key=identities[stage.name].key,
        uri=identities[stage.name].uri,
        above={name: identities[name].uri for name in _keys(stage, identities)},
        feeding=tuple(name for name in stage.above if name in FEEDING),
        recipe_yaml=recipe.to_published_yaml(),
        progress=progress,
        force=force,
    )


def _require_above(stage: Stage[Any], identities: Mapping[str, StageIdentity]) -> None:
    for above in _keys(stage, identities):
        if not is_committed(identities[above].uri):
            raise ConfigError(
                f"stage {stage.name} needs {above}, which has not been done with this recipe "
                f"({identities[above].uri} is not committed); run it first: `--only {above}`, or run the whole recipe"
            )


def _require_all(outcome: Outcome, stage: Stage[Any], above: StageIdentity) -> None:
    """Refuse an outcome of fewer or more samples than left the stage above."""
    require_same(
        outcome.ledger.entered,
        read_manifest(above.uri).ledger.out,
        f"samples that entered {stage.name} from {above.uri}",
        redo_with=f"run `--from {above.stage} --force`",
    )
