"""Work in parts of bounded size: committed ones are used again, the others are done by a pool, each with its commit.

A part that is done stays done, whatever becomes of the others. Whether it is done is known by its commit record at the
root alone, so it does not matter which process or machine has done it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from neuclip.foundation.errors import ChildError, DataError, NeuclipError
from neuclip.foundation.progress import Progress, silent
from neuclip.stages.manifest import Manifest, is_committed, read_manifest, verify_sizes
from neuclip.stages.pool import LOCAL, Call, Failure, Pool
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage

PartTask = Callable[[Workspace, Progress], Outcome]
"""Makes the files of a part; pickled for other processes, so a function of a module, or a partial of one."""

OnWrongInput = Callable[[list[DataError]], DataError]

_SHOWN = 3
_NOT_BEGUN = object()


@dataclass(frozen=True)
class Part:
    """A part, and how it is made.

    Args:
        identity: its key must hold all that its content depends on.
        size: what it counts in the progress of all parts, in any unit.
        note: what is being done, for people.
        redo: do it again although it is committed, since that no longer holds.
    """

    identity: StageIdentity
    work: PartTask
    note: str
    size: int = 1
    redo: bool = False

    @property
    def name(self) -> str:
        """What people know it by."""
        return f"{self.identity.stage}-{self.identity.key}"


def do_parts(
    parts: Sequence[Part],
    *,
    pool: Pool = LOCAL,
    progress: Progress = silent,
    force: bool = False,
    done: int = 0,
    total: int | None = None,
    on_wrong_input: OnWrongInput | None = None,
) -> list[Manifest]:
    """Do the parts that are not committed; return the manifests of all, in their order.

    Args:
        force: do committed ones again too.
        done: size of what was done before, for the progress.
        total: size of all there is to do, those parts included; None if there is nothing else.
        on_wrong_input: makes one error of what parts raise over their inputs; all parts are done before that is
            raised. None: such a part fails as others do.

    Raises:
        ChildError: naming the parts whose worker died or failed; what the others made is kept.
        NeuclipError: what a part raised, if all that failed raised the same.
        DataError: what `on_wrong_input` makes.
        IntegrityError: if a committed part has lost a file.
    """
    sizes = sum(part.size for part in parts)
    so_far = _SoFar(progress, done, done + sizes if total is None else total)
    missing = {part.identity.uri: part for part in parts if _is_missing(part, force=force)}
    so_far.done += sizes - sum(part.size for part in missing.values())
    goes_on = on_wrong_input is not None
    calls = [Call(part.name, _Commit(part, force, goes_on)) for part in missing.values()]
    failed: dict[str, Exception | None] = {}
    wrong: list[DataError] = []
    results = pool.do(calls, so_far)
    for part in missing.values():
        so_far.begin(part)
        result = next(results, _NOT_BEGUN)
        if isinstance(result, Failure):
            failed[part.name] = result.error
        elif result is _NOT_BEGUN:
            failed[part.name] = None
        elif isinstance(result, _WrongInput):
            wrong.append(result.error)
        so_far.end(part)
    if failed:
        raise failure(failed, of=len(parts))
    if wrong and on_wrong_input is not None:
        raise on_wrong_input(wrong)
    return [read_manifest(part.identity.uri) for part in parts]


def failure(failed: Mapping[str, Exception | None], *, of: int) -> NeuclipError:
    """Return the error of parts that were not done: what was raised, or by name why each was not.

    Args:
        failed: name of a part -> what it raised, or what its pool says of a worker that died; None if it was not begun.
        of: number of all parts.
    """
    errors = {name: error for name, error in failed.items() if error is not None}
    first = next(iter(errors.values()), None)
    if isinstance(first, NeuclipError) and len({str(error) for error in errors.values()}) == 1:
        return first
    names = list(errors)
    told = [f"{name}: {said(errors[name])}" for name in names[:_SHOWN]]
    told += [f"and {', '.join(names[_SHOWN:])}"] * (len(names) > _SHOWN)
    told += [f"{len(failed) - len(errors)} were not begun"] * (len(errors) < len(failed))
    return ChildError(
        f"{len(failed)} of {of} parts are not done: {'; '.join(told)}. The others are kept: run again. If a worker "
        "dies once more, look at its log and its memory; fewer workers leave each of them more"
    )


def said(error: Exception) -> str:
    """Say an error in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if isinstance(error, NeuclipError) else f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class _WrongInput:
    """Stands for a part that was not done, and does not keep the others from being done."""

    error: DataError


@dataclass(frozen=True)
class _Commit:
    """Does a part and commits it, in whatever process this is."""

    part: Part
    force: bool
    goes_on: bool

    def __call__(self, progress: Progress) -> _WrongInput | None:
        try:
            commit_stage(
                self.part.identity,
                lambda workspace: self.part.work(workspace, progress),
                force=self.force or self.part.redo,
            )
        except DataError as error:
            if not self.goes_on:
                raise
            return _WrongInput(error)
        return None


class _SoFar:
    """Takes what the part in hand reports of itself, and reports it as part of the whole."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self.done = done
        self._progress, self._total = progress, total
        self._part: Part | None = None

    def begin(self, part: Part) -> None:
        self._part = part
        self._progress(part.identity.stage, done=self.done, total=self._total, note=part.note)

    def end(self, part: Part) -> None:
        self.done, self._part = self.done + part.size, None

    def __call__(self, stage: str, *, done: int, total: int, note: str = "") -> None:
        size = self._part.size if self._part is not None else 0
        here = self.done + size * done // max(total, 1)
        self._progress(stage, done=here, total=self._total, note=note)


def _is_missing(part: Part, *, force: bool) -> bool:
    if force or part.redo or not is_committed(part.identity.uri):
        return True
    verify_sizes(part.identity.uri, read_manifest(part.identity.uri))
    return False
