"""Acquire by several workers: a flow whose tasks fetch the partitions, before the stage puts them together."""

from typing import Any

from prefect import flow, get_run_logger, unmapped

from flows.recipes import load_permitted
from flows.runners import task_runner
from neuclip.acquire.refusals import check_takedowns, takedowns_at
from neuclip.acquire.shared import (
    Share,
    clear_plans,
    describe_limits,
    failure,
    unfinished,
)
from neuclip.foundation.errors import NeuclipError
from neuclip.journey import identify, making, reopen
from neuclip.recipe import Recipe
from neuclip.stages.manifest import is_committed
from tasks.shared import fetch_partitions, share_out


def is_shared(recipe: Recipe, *, force: bool) -> bool:
    """Tell whether workers are to fetch before the acquire stage."""
    is_wanted = recipe.acquire.adopt is None and recipe.acquire.scale.runner != "local"
    return is_wanted and (force or not is_committed(identify(recipe)["acquire"].uri))


def fetch_by_workers(
    recipe: str, overrides: dict[str, Any] | None, loaded: Recipe, *, force: bool
) -> None:
    """Fetch all partitions that are not there with the recipe's task runner; the stage finds them committed."""
    runner = task_runner(loaded.acquire.scale)
    with making(loaded, "acquire"):
        if not is_shared(loaded, force=force):  # done by the run that this one waited for
            return
        fetch_shares.with_options(task_runner=runner)(recipe, overrides, force=force)
        if force:
            reopen(loaded, "acquire")


@flow(name="fetch-shares", description="Fetch the partitions of acquire by several workers.")
def fetch_shares(recipe: str, overrides: dict[str, Any] | None = None, *, force: bool) -> None:
    """Share the partitions out that are to be fetched, and fetch them.

    Raises: ChildError: naming the partitions of workers that failed; what was fetched is kept.
    """
    loaded = load_permitted(recipe, overrides)
    log = get_run_logger()
    taken_down = takedowns_at(loaded.root)
    shares = share_out(loaded, force=force)
    log.info(describe_limits(loaded.acquire, len(shares)))
    try:
        waiting = fetch_all(shares, loaded, force=force)
    finally:
        clear_plans(shares)
    check_takedowns(loaded.root, taken_down)
    if waiting:
        log.warning(
            "%d partitions look as if the network had been down; the stage fetches them again: %s",
            len(waiting),
            ", ".join(waiting),
        )


def fetch_all(shares: list[Share], recipe: Recipe, *, force: bool) -> list[str]:
    """Fetch the shares, each by a worker; return the keys of partitions that wait for the stage."""
    if not shares:
        return []
    futures = fetch_partitions.map(shares, unmapped(recipe), workers=len(shares), force=force)
    waiting: list[str] = []
    failed: dict[str, list[str]] = {}
    for share, future in zip(shares, futures, strict=True):
        try:
            waiting += future.result()
        except Exception as error:  # noqa: BLE001  # each task runner has errors of its own for a worker that died
            kind = "" if isinstance(error, NeuclipError) else f"{type(error).__name__}: "
            failed[f"{share.name}: {kind}{error}"] = unfinished(
                share, root=recipe.root, force=force
            )
    if failed:
        raise failure(failed, of=sum(len(share.partitions) for share in shares))
    return waiting
