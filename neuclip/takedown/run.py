"""A takedown from its lists to its report."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from neuclip.acquire.erase import Found, erase_part, find_rows, stages_with, update_stage
from neuclip.acquired.refusals import TAKEDOWNS, Refusals, TakedownRecord, read_takedowns
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stage_list import STAGES
from neuclip.stages.lease import leased
from neuclip.stages.manifest import PARTS
from neuclip.stages.plans import remove_all_plans
from neuclip.stages.revisions import revise
from neuclip.stages.scratch import scratch_folder
from neuclip.storage.files import list_folders, write_bytes
from neuclip.storage.uris import join, name_of
from neuclip.takedown.lists import Wanted
from neuclip.takedown.spread import Place, find_places, unfinished_folders

STAGE = "takedown"


@dataclass
class TakedownReport:
    """What a takedown did, and what it could not do."""

    root: str
    is_trial: bool = False
    """Nothing was changed: `rows` and `images` are what would go."""
    records: list[str] = field(default_factory=list[str])
    """The records that were written or finished now."""
    rows: int = 0
    images: int = 0
    erased: list[str] = field(default_factory=list[str])
    """Folders from which something was erased now."""
    not_ours: list[str] = field(default_factory=list[str])
    """Adopted tars with images that went from our rows, and are still in the tar."""
    taken_down_before: list[str] = field(default_factory=list[str])
    not_found: list[str] = field(default_factory=list[str])
    """Entries of the lists that no row at this root has; they are refused from now on all the same."""
    contained: list[Place] = field(default_factory=list[Place])
    unfinished: list[str] = field(default_factory=list[str])


def run_takedown(
    root: str, wanted: Wanted, *, progress: Progress, is_trial: bool = False
) -> TakedownReport:
    """Take pairs down from a root; with empty lists, finish the takedowns that were ended before they were.

    The record comes first, so that nothing new is fetched; then the stages that have one of the images are revised,
    so that nothing made of them counts as done; then content is erased; at last the record is marked as finished.
    Each step may be done again.

    Args:
        is_trial: change nothing, and report what would go.

    Raises: DataError: if nothing was ever acquired at the root.
    """
    if not list_folders(join(root, "acquire")):
        raise DataError(
            f"nothing was acquired at {root}, so there is nothing to take down; give the `root` of a recipe, or the "
            "recipe. What must never be fetched at a new root is named by acquire.refuse"
        )
    report = TakedownReport(root, is_trial)
    with leased(root, STAGE, "records"), scratch_folder(root) as scratch:
        records = read_takedowns(root)
        for record in records:
            if not (record.is_finished or is_trial):
                _complete(root, record, report, scratch, progress)
        known = Refusals()
        for record in records:
            known |= record.refusals
        progress(STAGE, done=0, total=1, note="looking through the rows")
        found = list(find_rows(join(root, "acquire"), wanted.refusals))
        live = {uid for part in found for uid in part.uids}
        if is_trial:
            report.rows = sum(len(part.uids) for part in found)
            report.images = sum(part.num_images for part in found)
        elif live or wanted.refusals - known:
            number = max((record.number for record in records), default=0) + 1
            record = _record(root, number, wanted, live)
            _complete(root, record, report, scratch, progress)
            records = [*records, record]
    _sort_entries(wanted, found, known, report)
    report.contained = find_places(root, _concerned(records, wanted, found))
    report.unfinished = unfinished_folders(root) if report.contained else []
    progress(STAGE, done=1, total=1, note=f"{report.rows} rows taken down")
    return report


def _record(root: str, number: int, wanted: Wanted, live: Iterable[str]) -> TakedownRecord:
    """Write down what is to go, before anything goes."""
    refusals = wanted.refusals
    record = TakedownRecord(
        number=number,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        uids=sorted(refusals.uids),
        url_hashes=sorted(refusals.urls),
        hosts=sorted(refusals.hosts),
        found=sorted(live),
    )
    _write(root, record)
    return record


def _write(root: str, record: TakedownRecord) -> None:
    content = record.model_dump_json(indent=1).encode()
    write_bytes(join(root, TAKEDOWNS, record.name), content)


def _complete(
    root: str, record: TakedownRecord, report: TakedownReport, scratch: Path, progress: Progress
) -> None:
    """Do everything that a record says; what is done already is done again to the same end."""
    acquire_uri, uids = join(root, "acquire"), set(record.found)
    for stage in STAGES:
        remove_all_plans(root, stage.name)
    found = list(find_rows(acquire_uri, Refusals(uids=frozenset(uids)))) if uids else []
    with_images = [part.part for part in found if part.num_images]
    for stage in stages_with(acquire_uri, with_images):
        with leased(root, "acquire", stage.key):  # a repair revises it too
            revise(acquire_uri, stage.key, "takedown", {"record": record.name})
    others = list(_erasures(root, uids)) if uids else []
    total = len(found) + len(others)
    for done, part in enumerate(found):
        progress(STAGE, done=done, total=total, note="erasing images and rows")
        uri = join(acquire_uri, PARTS, part.part)
        with leased(root, "acquire", part.part, part=True):
            tar = erase_part(uri, uids, takedown=record.number, scratch=scratch)
        report.rows += len(part.uids)
        report.images += part.num_images
        report.erased.append(uri)
        report.not_ours += [tar] if tar is not None else []
    for stage in stages_with(acquire_uri, [part.part for part in found]):
        with leased(root, "acquire", stage.key):
            update_stage(acquire_uri, stage, record.found, takedown=record.number, scratch=scratch)
    for done, (stage, uri, erase) in enumerate(others, start=len(found)):
        progress(STAGE, done=done, total=total, note=f"erasing what {stage} made of them")
        with leased(root, stage, name_of(uri), part=True):
            erase(record.number, scratch)
        report.erased.append(uri)
    _write(root, record.model_copy(update={"is_finished": True}))
    report.records.append(join(root, TAKEDOWNS, record.name))


def _erasures(
    root: str, uids: Collection[str]
) -> Iterator[tuple[str, str, Callable[[int, Path], None]]]:
    """Yield stage, folder and what erases the pairs there, for all stages below the first."""
    for stage in STAGES:
        if stage.erasures is not None:
            for uri, erase in stage.erasures(join(root, stage.name), uids).items():
                yield stage.name, uri, erase


def _sort_entries(
    wanted: Wanted, found: list[Found], known: Refusals, report: TakedownReport
) -> None:
    """Tell the entries that were taken down before, and those that no row here has."""
    uids = {uid for part in found for uid in part.uids}
    pairs = [(uid, None) for uid in uids]
    pairs += [("", url) for part in found for url in part.urls]
    gone = {uid for part in found for uid in part.gone}
    for entry, alone in wanted.entries().items():
        if any(alone.names_pair(uid, url) for uid, url in pairs):
            continue
        if not alone - known or alone.uids & gone:
            report.taken_down_before.append(entry)
        else:
            report.not_found.append(entry)


def _concerned(
    records: list[TakedownRecord], wanted: Wanted, found: list[Found]
) -> Collection[str]:
    """Return the uids that the lists stand for, those of earlier takedowns with an entry in common among them."""
    refusals = wanted.refusals
    uids = {uid for part in found for uid in [*part.uids, *part.gone]}
    for record in records:
        shares = (
            refusals.uids & record.refusals.uids,
            refusals.urls & record.refusals.urls,
            refusals.hosts & record.refusals.hosts,
        )
        if any(shares) or not refusals:
            uids |= set(record.found)
    return uids
