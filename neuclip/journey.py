"""The way of a sample: the nine stages in order, how each is keyed, what it needs, and who does it.

A stage's function is imported when it runs, so that planning loads neither torch nor DuckDB.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from neuclip.acquire import config as acquire
from neuclip.acquire.amendments import AMENDMENTS, amended_inputs
from neuclip.acquire.ready_shards import fingerprint_shards
from neuclip.captions import config as captions
from neuclip.curate import config as curate
from neuclip.curate.scores import ModelScore
from neuclip.evaluation import config as evaluation
from neuclip.foundation.config import Section
from neuclip.foundation.errors import ConfigError, DataError, nearest
from neuclip.foundation.names import in_known_case
from neuclip.foundation.progress import Progress, silent
from neuclip.index import config as index
from neuclip.publishing import config as publishing
from neuclip.recipe import Recipe
from neuclip.selection import config as selection
from neuclip.shards import config as shards
from neuclip.stages.committed import require_same
from neuclip.stages.keys import fingerprint, stage_key
from neuclip.stages.lease import leased, sweep_leases
from neuclip.stages.manifest import (
    MANIFEST,
    Manifest,
    committed_manifests,
    is_committed,
    read_manifest,
)
from neuclip.stages.scratch import scratch_folder, scratch_home, sweep_scratch
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.files import list_files, remove
from neuclip.storage.roots import require_folder
from neuclip.storage.uris import join, name_of
from neuclip.training import config as training

if TYPE_CHECKING:
    from neuclip.acquire.repair import Repair
    from neuclip.index.features import SampleEncoder

STAGES = (
    "acquire",
    "curate",
    "caption",
    "shard",
    "index",
    "train",
    "select",
    "evaluate",
    "publish",
)

_ABOVE: dict[str, tuple[str, ...]] = {
    "acquire": (),
    "curate": ("acquire",),
    "caption": ("acquire", "curate"),
    "shard": ("acquire", "caption"),
    "index": ("shard",),
    "train": ("caption", "shard", "index"),
    "select": ("shard", "train"),
    "evaluate": ("select",),
    "publish": ("acquire", "curate", "caption", "shard", "index", "train", "select", "evaluate"),
}
_VERSION = {
    "acquire": acquire.STAGE_VERSION,
    "curate": curate.STAGE_VERSION,
    "caption": captions.STAGE_VERSION,
    "shard": shards.STAGE_VERSION,
    "index": index.STAGE_VERSION,
    "train": training.STAGE_VERSION,
    "select": selection.STAGE_VERSION,
    "evaluate": evaluation.STAGE_VERSION,
    "publish": publishing.STAGE_VERSION,
}
_SEEDED = ("curate", "shard", "train")
_FED_BY = {
    "curate": "acquire",
    "caption": "curate",
    "shard": "caption",
    "index": "shard",
    "train": "index",
}
"""Stages that handle samples -> the stage whose samples enter: all that left it, counted anew where they are read."""


class StagePlan(BaseModel):
    """What a stage would do now."""

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    uri: str
    state: str
    """done: committed; partial: begun and not finished; missing: never done with this recipe and these inputs."""
    why: str


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


def check_stage(name: str) -> str:
    """Return the name of the stage that is meant, in any case.

    Raises: ConfigError: with the nearest stage.
    """
    name = in_known_case(name, STAGES)
    if name not in STAGES:
        raise ConfigError(
            f"there is no stage {name!r}; stages are {', '.join(STAGES)}.{nearest(name, STAGES)}"
        )
    return name


def from_stage(name: str) -> tuple[str, ...]:
    """Return a stage and all below it."""
    return STAGES[STAGES.index(check_stage(name)) :]


def identify(recipe: Recipe) -> dict[str, StageIdentity]:
    """Return the identity of every stage: keys follow from the recipe and the inputs' fingerprints alone.

    Raises: DataError: if an input that no stage makes is not there. ConfigError: if the root cannot be a folder.
    """
    require_folder(recipe.root, "root")
    identities: dict[str, StageIdentity] = {}
    for stage in STAGES:
        section = _section(recipe, stage)
        inputs = {above: identities[above].key for above in _ABOVE[stage]} | _outside_inputs(
            recipe, stage
        )
        if stage == "acquire":
            inputs = amended_inputs(
                join(recipe.root, stage),
                inputs,
                lambda now: stage_key(
                    "acquire", _VERSION["acquire"], _section(recipe, "acquire"), now
                ),
            )
        identities[stage] = StageIdentity(
            stage=stage,
            stage_version=_VERSION[stage],
            key=stage_key(stage, _VERSION[stage], section, inputs),
            section=section,
            inputs=inputs,
            root=recipe.root,
        )
    return identities


def plan(recipe: Recipe) -> list[StagePlan]:
    """Say for every stage whether it is done, and if not, what has changed since the last time."""
    return [
        StagePlan(stage=stage, key=identity.key, uri=identity.uri, state=state, why=why)
        for stage, identity in identify(recipe).items()
        for state, why in [_state(identity)]
    ]


def run_stage(
    recipe: Recipe, stage: str, *, force: bool = False, progress: Progress = silent
) -> StageReport:
    """Do one stage unless it is done.

    Args:
        force: do it again although it is done.

    Raises: ConfigError: if a stage above it has not been done.
    """
    stage = check_stage(stage)
    identities = identify(recipe)
    identity = identities[stage]
    _require_above(identities, stage)
    start = time.monotonic()

    def work(workspace: Workspace) -> Outcome:
        outcome = _work(recipe, stage, identities, workspace, progress, force=force)
        if stage in _FED_BY:
            _require_all(outcome, stage, identities[_FED_BY[stage]])
        return outcome

    manifest, ran = commit_stage(identity, work, keep_unfinished=stage == "train", force=force)
    return StageReport(
        stage=stage,
        key=identity.key,
        uri=identity.uri,
        state="ran" if ran else "cached",
        manifest=manifest,
        seconds=round(time.monotonic() - start, 3),
    )


def _require_all(outcome: Outcome, stage: str, above: StageIdentity) -> None:
    """Refuse an outcome of fewer or more samples than left the stage above."""
    require_same(
        outcome.ledger.entered,
        read_manifest(above.uri).ledger.out,
        f"samples that entered {stage} from {above.uri}",
        redo_with=f"run `--from {above.stage} --force`",
    )


def reopen(recipe: Recipe, stage: str) -> None:
    """Remove the commit record of a stage that has parts, so that it is put together again from them."""
    remove(join(identify(recipe)[check_stage(stage)].uri, MANIFEST))


def sweep(root: str) -> None:
    """Remove the leases and scratch folders of runs that were killed."""
    sweep_leases(root)
    sweep_scratch(scratch_home(root))


@contextmanager
def making(recipe: Recipe, stage: str) -> Generator[StageIdentity]:
    """Hold the lease on a stage that is worked on outside `run_stage`; yield it as it stands then."""
    while True:
        identity = identify(recipe)[stage]
        with leased(identity.root, identity.stage, identity.key):
            if (
                identify(recipe)[stage].key == identity.key
            ):  # not amended by the run that this one waited for
                yield identity
                return


def run_journey(
    recipe: Recipe,
    *,
    stages: Sequence[str] = STAGES,
    force: bool = False,
    progress: Progress = silent,
    on_stage: Callable[[StageReport], None] | None = None,
) -> list[StageReport]:
    """Do stages in order, each unless it is done.

    Raises: DataError: at once, for an evaluation set that could not be told in its own metric at the end.
    """
    from neuclip.evaluation.main_metric import require_metrics

    if "evaluate" in stages:
        require_metrics(recipe.evaluate.sets)
    reports: list[StageReport] = []
    sweep(recipe.root)
    for stage in stages:
        report = run_stage(recipe, stage, force=force, progress=progress)
        reports.append(report)
        if on_stage is not None:
            on_stage(report)
    return reports


def repair(recipe: Recipe, *, progress: Progress = silent) -> "tuple[Repair, StageReport]":
    """Fetch again what may not fail the next time; return what that did, and acquire as it stands now.

    Raises: ConfigError: if acquire has not been done with this recipe.
    """
    from neuclip.acquire.repair import run_repair

    if recipe.acquire.table is None:
        raise ConfigError(
            f"the shards of {recipe.acquire.source} were adopted, so there is nothing to fetch again"
        )
    while True:
        _put_together(recipe, progress)
        with making(recipe, "acquire") as identity:
            if not is_committed(identity.uri):  # another repair has just amended it
                continue
            with scratch_folder(recipe.root) as scratch:
                done = run_repair(
                    recipe.acquire,
                    read_manifest(identity.uri),
                    root=recipe.root,
                    scratch=scratch,
                    progress=progress,
                )
            break
    return done, run_stage(recipe, "acquire", progress=progress)


def _put_together(recipe: Recipe, progress: Progress) -> None:
    """Do acquire if an earlier repair ended before that; what was never done cannot be repaired."""
    identity = identify(recipe)["acquire"]
    if is_committed(identity.uri):
        return
    if AMENDMENTS not in identity.inputs:
        raise ConfigError(
            f"there is nothing to repair: acquire has not been done with this recipe ({identity.uri} is not "
            "committed); run `--only acquire` first"
        )
    run_stage(recipe, "acquire", progress=progress)


def preflight(recipe: Recipe) -> dict[str, Callable[[], str]]:
    """Return the checks of a recipe's training by name; each says what it found or raises what to change.

    Raises: ConfigError: if a stage above training has not been done.
    """
    identities = identify(recipe)
    _require_above(identities, "train")
    from neuclip.training.job import TrainJob
    from neuclip.training.preflight import Preflight

    job = TrainJob(
        config=recipe.train,
        seed=recipe.seed,
        train_key=identities["train"].key,
        index_uri=identities["index"].uri,
        shard_uri=identities["shard"].uri,
        run_uri=identities["train"].uri,
    )
    return Preflight(job, caption_uri=identities["caption"].uri).all


def _require_above(identities: dict[str, StageIdentity], stage: str) -> None:
    for above in _ABOVE[stage]:
        if not is_committed(identities[above].uri):
            raise ConfigError(
                f"stage {stage} needs {above}, which has not been done with this recipe ({identities[above].uri} "
                f"is not committed); run it first: `--only {above}`, or run the whole recipe"
            )


def _section(recipe: Recipe, stage: str) -> dict[str, Any]:
    """Return the part of the recipe that a stage's key is made of."""
    config: Section = getattr(recipe, stage)
    section = config.keyed()
    if stage == "acquire":
        del (
            section["table"],
            section["adopt"],
        )  # their content counts, see _outside_inputs; where it lies does not
        if recipe.acquire.adopt is None:
            del section["adopted_caption"]
    if stage == "evaluate":
        del section["sets"]
    if stage in _SEEDED:
        section["seed"] = recipe.seed
    return section


def _outside_inputs(recipe: Recipe, stage: str) -> dict[str, str]:
    """Return the fingerprints of the inputs that no stage makes."""
    if stage == "acquire":
        if recipe.acquire.adopt is not None:
            return {"shards": fingerprint_shards(recipe.acquire.adopt)}
        return {"table": fingerprint(recipe.acquire.source, acquire.TABLE_SUFFIXES)}
    if stage == "curate":
        return _curate_inputs(recipe) | _set_inputs(recipe.curate.kept_out_sets)
    if stage == "index" and recipe.index.features is not None:
        model = recipe.index.features.model
        return {"features model": fingerprint(model, curate.MODEL_SUFFIXES)}
    if stage == "evaluate":
        return _set_inputs(recipe.evaluate.sets)
    return {}


def _curate_inputs(recipe: Recipe) -> dict[str, str]:
    """Return the fingerprints of the files and models that rules and scores name."""
    inputs = {
        f"{rule.kind} {uri}": fingerprint(uri, suffixes)
        for rule in recipe.curate.rules
        for uri, suffixes in curate.files_of(rule)
    }
    return inputs | {
        f"score {score.name}": fingerprint(score.model, curate.MODEL_SUFFIXES)
        for score in recipe.curate.scores
        if isinstance(score, ModelScore)
    }


def _set_inputs(sets: list[str]) -> dict[str, str]:
    names = [name_of(uri) for uri in sets]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two evaluation sets are called alike: {', '.join(sorted(names))}; give their folders different names"
        )
    return {
        name: fingerprint(uri, evaluation.SET_SUFFIXES)
        for name, uri in zip(names, sets, strict=True)
    }


def _state(identity: StageIdentity) -> tuple[str, str]:
    if is_committed(identity.uri):
        manifest = read_manifest(identity.uri)
        return "done", f"committed {manifest.started_at}: {manifest.ledger.describe()}"
    begun = "begun and not finished; " if list_files(identity.uri) else ""
    earlier = committed_manifests(join(identity.root, identity.stage))
    changes = _changes(earlier[0], identity) if earlier else "never done at this root"
    return ("partial" if begun else "missing"), begun + changes


def _changes(earlier: Manifest, identity: StageIdentity) -> str:
    """Say what differs between the last committed run of a stage and this one."""
    changes = [f"stage version {earlier.stage_version} -> {identity.stage_version}"] * (
        earlier.stage_version != identity.stage_version
    )
    changes += [
        f"{identity.stage}.{name}: {was} -> {now}"
        for name, was, now in _differences(earlier.section, identity.section)
    ]
    inputs = [
        f"{name} ({_how(earlier.inputs.get(name), identity.inputs.get(name))})"
        for name in {**earlier.inputs, **identity.inputs}
        if earlier.inputs.get(name) != identity.inputs.get(name)
    ]
    changes += [f"other input: {', '.join(inputs)}"] * bool(inputs)
    return "; ".join(changes) or "its record is gone"


def _how(was: str | None, now: str | None) -> str:
    return "new" if was is None else "gone" if now is None else "changed"


def _differences(
    was: dict[str, Any], now: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name in {**was, **now}:
        old, new = was.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif isinstance(old, list) and isinstance(new, list):
            yield from _differences(_labelled(old), _labelled(new), f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new


def _labelled(items: list[Any]) -> dict[str, Any]:
    """Return a list's items by the name or kind they have, else by their place."""
    return {
        str(item.get("name") or item.get("kind") or place)
        if isinstance(item, dict)
        else str(place): item
        for place, item in enumerate(items)
    }


def _acquire(recipe: Recipe, *, workspace: Workspace, progress: Progress, force: bool) -> Outcome:
    """Fetch the URL table, or adopt the shards that are there."""
    if recipe.acquire.adopt is not None:
        from neuclip.acquire.adopt import run_adopt as run
    else:
        from neuclip.acquire.run import run_acquire as run
    return run(
        recipe.acquire, root=recipe.root, workspace=workspace, progress=progress, force=force
    )


def _work(  # noqa: PLR0911  # one return a stage
    recipe: Recipe,
    stage: str,
    identities: dict[str, StageIdentity],
    workspace: Workspace,
    progress: Progress,
    *,
    force: bool,
) -> Outcome:
    """Call the function that does a stage."""
    uri = {name: identity.uri for name, identity in identities.items()}
    common: dict[str, Any] = {"workspace": workspace, "progress": progress}
    match stage:
        case "acquire":
            return _acquire(recipe, force=force, **common)
        case "curate":
            from neuclip.curate.run import run_curate
            from neuclip.scoring.for_curate import prepare

            prepared = prepare(
                recipe.curate,
                root=recipe.root,
                acquire_uri=uri["acquire"],
                seed=recipe.seed,
                scratch=workspace.scratch,
                progress=progress,
            )
            return run_curate(
                recipe.curate,
                seed=recipe.seed,
                acquire_uri=uri["acquire"],
                scores=prepared.scores,
                masks=prepared.masks,
                contamination=prepared.contamination,
                **common,
            )
        case "caption":
            from neuclip.captions.run import run_caption

            return run_caption(
                recipe.caption, acquire_uri=uri["acquire"], curate_uri=uri["curate"], **common
            )
        case "shard":
            from neuclip.shards.run import run_shard

            return run_shard(
                recipe.shard,
                seed=recipe.seed,
                root=recipe.root,
                acquire_uri=uri["acquire"],
                caption_uri=uri["caption"],
                force=force,
                **common,
            )
        case "index":
            from neuclip.index.run import run_index

            return run_index(
                recipe.index,
                shard_uri=uri["shard"],
                root=recipe.root,
                encoder=_sample_encoder(recipe.index.features),
                force=force,
                **common,
            )
        case "train":
            from neuclip.training.run import run_train

            return run_train(
                recipe.train,
                seed=recipe.seed,
                index_uri=uri["index"],
                shard_uri=uri["shard"],
                caption_uri=uri["caption"],
                **common,
            )
        case "select":
            from neuclip.selection.run import run_select

            return run_select(
                recipe.select, train_uri=uri["train"], shard_uri=uri["shard"], **common
            )
        case "evaluate":
            from neuclip.evaluation.run import run_evaluate

            return run_evaluate(recipe.evaluate, select_uri=uri["select"], **common)
        case "publish":
            from neuclip.publishing.run import run_publish

            above = {name: uri[name] for name in _ABOVE["publish"]}
            return run_publish(
                recipe.publish, recipe_yaml=recipe.to_published_yaml(), uris=above, **common
            )
        case _:
            raise DataError(f"stage {stage!r} has no function")


def _sample_encoder(config: ModelScore | None) -> "SampleEncoder | None":
    """Return what encodes the samples of the index, if they are to be encoded."""
    if config is None:
        return None
    from neuclip.scoring.sample_features import ShardEncoder

    return ShardEncoder(config)
