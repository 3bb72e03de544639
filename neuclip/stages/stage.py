"""What a stage is: all that the journey, queries, takedowns and flows ask of one, so that none of them names stages.

Each room that does a stage has a `stage.py` with its object, which imports the stage's function when it is called:
planning loads neither torch nor DuckDB.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from neuclip.foundation.config import Section
from neuclip.foundation.progress import Progress
from neuclip.stages.choices import Chosen
from neuclip.stages.manifest import Manifest
from neuclip.stages.pool import LOCAL, Pool
from neuclip.stages.workspace import Outcome, Workspace

if TYPE_CHECKING:
    import duckdb

    from neuclip.stages.telling import Pair, Told

Config = TypeVar("Config", bound=Section)
Checks = dict[str, Callable[[], str]]
"""Checks by name: each says what it found, or raises what to change."""
Estimate = dict[str, dict[str, float]]
"""What -> unit -> how much."""
Erasures = Mapping[str, Callable[[int, Path], None]]
"""Folder -> what erases its pairs of a takedown, given the takedown's number and a scratch folder."""


@dataclass(frozen=True)
class Job(Generic[Config]):
    """One stage of one recipe.

    Args:
        config: the stage's section of the recipe.
        key: the stage's own key.
        uri: the stage's own folder.
        above: stage -> committed folder, of all stages that this one reads, in order.
        feeding: those of `above` that hand samples on to another stage, in order.
        recipe_yaml: the recipe as everybody may read it.
        force: do it again although it is done; parts that are committed count for nothing.
        pool: does its parts.
    """

    config: Config
    seed: int
    root: str
    key: str
    uri: str
    above: Mapping[str, str]
    feeding: tuple[str, ...]
    recipe_yaml: str
    progress: Progress
    force: bool
    pool: Pool = LOCAL


@dataclass(frozen=True)
class Trace:
    """What of a pair is left in a stage's folders once it was taken down, and how to tell which were made with it.

    Args:
        stays: what stays there of a pair, and goes only with the folder.
        table: file of a folder whose column `uid` names its pairs.
        part_table: likewise of each of the stage's parts, which are what stays; a pair without a value in any other
            column of it left nothing there.
        through: without a table: the stage above whose folder tells.
        began_with: further folders, by stage and key, that one of this stage was made of, given its manifest.
    """

    stays: str
    table: str | None = None
    part_table: str | None = None
    through: str | None = None
    began_with: Callable[[Manifest], list[tuple[str, str]]] | None = None


@dataclass(frozen=True)
class Views:
    """Tables that a stage offers to SQL.

    Args:
        names: views that are there once the stage is done.
        add: makes those that a statement mentions, given a connection, the stage's folder and the words of the
            statement. A view of a stage further down may take the place of one of the same name.
    """

    names: tuple[str, ...]
    add: "Callable[[duckdb.DuckDBPyConnection, str, Collection[str]], None]"


def _nothing(config: object) -> dict[str, str]:
    del config
    return {}


@dataclass(frozen=True)
class Stage(Generic[Config]):
    """One stage, and its place in the graph.

    Args:
        name: its section of the recipe, its folder at the root, its flow.
        version: raised when its output for the same recipe and inputs changes.
        purpose: what it does, as one sentence.
        run: does it: leaves files in the workspace and says how many samples came, left and were dropped.
        above: stages whose keys are inputs of its own; of optional ones, those that the recipe has.
        is_optional: a recipe may leave its section out, and has no such stage then.
        inputs: fingerprints of the inputs that no stage makes, by name.
        choose: fills in what the section leaves open until a run begins, given the root and what was chosen when such
            a run began before, see choices.py.
        fed_by: the stage whose samples enter, all that left it; None if its ledger counts something else.
        is_seeded: the recipe's seed is part of its key.
        is_revisable: it may be revised after it was committed, see revisions.py.
        resumes: it goes on from what an earlier run left in its folder.
        has_progress: it lasts, and reports on the way.
        check: raises at once what would fail it at its end.
        preflight: checks of this machine before it is run.
        estimate: what running it now would ask of others, in numbers by name, as far as it can be told.
        trace: None for the stage where a takedown begins.
        erasures: finds the committed parts and other folders that hold images or texts of pairs, given the stage's
            folder at the root and their uids. Nothing of a pair that is not erased so may stay without being told by
            `trace`.
        views: tables for SQL.
        tell: looks a pair up in the stage's folder.
    """

    name: str
    version: int
    purpose: str
    run: Callable[[Job[Config], Workspace], Outcome]
    above: tuple[str, ...] = ()
    inputs: Callable[[Config], dict[str, str]] = _nothing
    choose: Callable[[Config, str, str | None], Chosen[Config]] | None = None
    fed_by: str | None = None
    is_optional: bool = False
    is_seeded: bool = False
    is_revisable: bool = False
    resumes: bool = False
    has_progress: bool = False
    check: Callable[[Config], None] | None = None
    preflight: Callable[[Job[Config]], Checks] | None = None
    estimate: Callable[[Job[Config]], Estimate] | None = None
    trace: Trace | None = None
    erasures: Callable[[str, Collection[str]], Erasures] | None = None
    views: Views | None = None
    tell: "Callable[[Pair, str], Told] | None" = None
