"""Adopt ready-made shards: each becomes a part that names the shard's tar, which stays where it is."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.acquired.adopted_tar import ADOPTED_TAR, adopted_tar, is_unchanged
from neuclip.acquired.listing import PARTITIONS_FILE, Listed, write_listing
from neuclip.acquired.partitions import COLUMNS, PARTITION_VERSION, ROWS, STAGE
from neuclip.acquired.reasons import likely_cause
from neuclip.acquired.refusals import REFUSED, Refusals, check_takedowns, takedowns_at
from neuclip.acquired.rows import Messages, add_messages, write_rows
from neuclip.acquired.texts import TEXTS_VERSION, commit_texts, count_texts
from neuclip.adopt.account import account_for, read_pairs, read_texts
from neuclip.adopt.problems import some
from neuclip.adopt.shards import ADOPTION_VERSION, ReadyShard, find_shards, ignored_files
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import as_integers, repeats
from neuclip.foundation.progress import Progress
from neuclip.stages.committed import committed_file
from neuclip.stages.keys import digest
from neuclip.stages.ledger import Ledger, add_ledgers
from neuclip.stages.manifest import PARTS, Manifest, is_committed, read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.tables import ArrowTable
from neuclip.storage.uris import join, name_of
from neuclip.table.config import SourceConfig
from neuclip.table.kept import kept_columns
from neuclip.table.rows import Row

log = logging.getLogger(__name__)

_SHOWN = 3
_MOST_PROBLEMS = 20


def run_adopt(
    config: SourceConfig,
    *,
    refused: Refusals,
    max_failed_share: float,
    root: str,
    workspace: Workspace,
    progress: Progress,
    force: bool,
) -> Outcome:
    """Verify every shard of a folder that no committed part has, and account for the rows of all.

    Each part is committed as soon as its shard is verified, so a run that is ended loses only the one it had in hand.

    Args:
        refused: pairs that the recipe does not want.
        max_failed_share: of all rows, above which the stage is failed as a whole.
        force: verify the shards of committed parts again too.
    Raises: DataError: if no image can be read, uids come twice or too many rows failed.
    """
    assert config.adopt is not None
    shards = find_shards(config.adopt)
    ignored = ignored_files(config.adopt, root=root)
    for why, names in ignored.items():
        log.warning(
            "%d files in %s are ignored, %s: %s", len(names), config.adopt, why, some(names)
        )
    taken_down = takedowns_at(root)
    adoption = _Adoption(config, root, workspace, taken_down, force=force)
    manifests, texts = _verified(shards, adoption, config.adopt, progress)
    manifests = adoption.without_unwanted(shards, manifests, refused)
    check_takedowns(root, taken_down)
    ledger = add_ledgers(manifest.ledger for manifest in manifests)
    messages = add_messages([manifest.summary["messages"] for manifest in manifests])
    _check_any_image(ledger, messages, config)
    _check_failed_share(ledger, config, max_failed_share)
    adoption.write_columns(shards, manifests)
    _write_index(shards, manifests, texts, workspace)
    progress(STAGE, done=len(shards), total=len(shards), note=ledger.describe())
    return Outcome(
        ledger=ledger,
        summary={
            "adopted": config.adopt,
            "partitions": len(shards),
            "reused": adoption.num_reused,
            "reasons": ledger.dropped,
            "messages": messages,
            "texts": count_texts(texts),
            "ignored_files": {
                why: {"count": len(names), "names": some(names)} for why, names in ignored.items()
            },
            **_problems(shards, manifests),
        },
        parts=[manifest.key for manifest in manifests],
    )


def _verified(
    shards: Sequence[ReadyShard], adoption: "_Adoption", source: str, progress: Progress
) -> tuple[list[Manifest], list[Manifest]]:
    """Return the part of each shard, and the part with its texts.

    Raises: DataError: naming the shards that cannot be adopted, once all were looked at.
    """
    manifests: list[Manifest] = []
    texts: list[Manifest] = []
    broken: list[str] = []
    for number, shard in enumerate(shards):
        progress(STAGE, done=number, total=len(shards), note=f"verifying shard {shard.name}")
        try:
            manifests.append(adoption.part(shard))
            texts.append(adoption.texts(shard))
        except DataError as error:
            broken.append(str(error))
        except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
            log.debug("shard %s", shard.tar, exc_info=True)
            broken.append(f"{shard.tar}: {error!r}")
    if broken:
        raise DataError(
            f"{len(broken)} of {len(shards)} shards in {source} cannot be adopted: "
            f"{'; '.join(broken[:_SHOWN])}. Write these shards anew, or move their files out of the folder (gaps in "
            "the numbers do no harm), then run again: the others are kept"
        )
    return manifests, texts


class _Adoption:
    """The parts of one run."""

    def __init__(
        self,
        config: SourceConfig,
        root: str,
        workspace: Workspace,
        taken_down: Refusals,
        *,
        force: bool,
    ) -> None:
        self.num_reused = 0
        self._config, self._root, self._workspace, self._force = config, root, workspace, force
        self._taken_down = taken_down
        # The alt text is among them where uids are derived from it; other texts change no part but theirs.
        names = {"url_column", "uid_column", "caption_column", "adopted_caption"}
        self._section = {name: v for name, v in config.keyed().items() if name in names}
        self._texts: dict[str, ArrowTable] = {}
        self._version = [PARTITION_VERSION, ADOPTION_VERSION]

    def part(self, shard: ReadyShard) -> Manifest:
        """Return the part of a shard; verify the shard and commit it unless that is done.

        Raises: DataError: if the shard contradicts itself.
        """
        identity = self._identity(
            digest(
                {
                    "stage_version": self._version,
                    "adopted": self._section,
                    "shard": [shard.name, *shard.tags],
                }
            ),
            shard,
        )
        if is_committed(identity.uri) and not self._force:
            manifest = read_manifest(identity.uri)
            verify_sizes(identity.uri, manifest)
            tar = adopted_tar(manifest)
            if tar and tar.uri == shard.tar and is_unchanged(tar, shard.stamp):
                self.num_reused += 1
                return manifest

        def verify(workspace: Workspace) -> Outcome:
            account = account_for(
                shard,
                self._config,
                folder=workspace.output,
                scratch=workspace.scratch,
                taken_down=self._taken_down,
            )
            if account.problems:
                told = "; ".join(
                    f"{count} {reason}"
                    + (f" ({', '.join(names)})" if (names := account.names.get(reason)) else "")
                    for reason, count in account.problems.items()
                )
                log.warning("shard %s: %s", shard.tar, told)
            self._texts[shard.name] = account.texts
            summary = {
                "messages": account.messages,
                "problems": account.problems,
                "problem_names": account.names,
                ADOPTED_TAR: account.tar.model_dump(),
            }
            return Outcome(ledger=account.ledger, summary=summary)

        return commit_stage(identity, verify, force=True)[0]

    def texts(self, shard: ReadyShard) -> Manifest:
        """Return the part with the texts of a shard; they are read again if it was not verified now."""
        key = digest(
            {
                "texts_version": [TEXTS_VERSION, *self._version],
                "adopted": {**self._section, "caption_columns": self._config.caption_columns},
                "shard": [shard.name, *shard.tags],
            }
        )
        uri = join(self._root, STAGE, PARTS, key)
        found = self._texts.pop(shard.name, None)
        if is_committed(uri) and found is None:
            return read_manifest(uri)
        if found is None:
            found = read_texts(
                shard,
                self._config,
                scratch=self._workspace.scratch,
                taken_down=self._taken_down,
            )
        return commit_texts(key, found, root=self._root, of=name_of(shard.tar), force=True)

    def without_unwanted(
        self, shards: Sequence[ReadyShard], manifests: list[Manifest], refused: Refusals
    ) -> list[Manifest]:
        """Return the parts with every uid once and without what the recipe refuses.

        A part with rows that are not wanted gets another beside it, in which these have failed.

        Raises: DataError: if a uid comes twice and on_duplicate_uid is `error`.
        """
        unwanted = self._repeated(shards, manifests)
        for part, places in self._refused(manifests, refused).items():
            unwanted[part] = dict.fromkeys(places, REFUSED) | unwanted.get(part, {})
        wanted = list(manifests)
        for part, reasons in sorted(unwanted.items()):
            wanted[part] = self._without(shards[part], manifests[part], reasons)
        return wanted

    def _repeated(
        self, shards: Sequence[ReadyShard], manifests: Sequence[Manifest]
    ) -> dict[int, dict[int, str]]:
        """Return part -> row -> reason of the rows with a uid that an earlier row has."""
        starts = np.cumsum([0, *(manifest.ledger.entered for manifest in manifests)])
        tables = (pq.read_table(self._rows_path(part), columns=["uid"]) for part in manifests)
        uids = as_integers("".join("".join(table["uid"].to_pylist()) for table in tables))
        again = repeats(uids)
        of_part = np.searchsorted(starts, again, side="right") - 1
        places = list(zip(of_part.tolist(), (again - starts[of_part]).tolist(), strict=True))
        if places and self._config.on_duplicate_uid == "error":
            examples = ", ".join(
                f"{uids[at, 0]:016x}{uids[at, 1]:016x} (row {place} of {shards[part].name})"
                for at, (part, place) in zip(again.tolist(), places[:_SHOWN], strict=False)
            )
            raise DataError(
                f"{len(again)} rows of the shards in {self._config.adopt} have a uid that an earlier row has: "
                f"{examples}; set acquire.on_duplicate_uid=keep_first, or adopt shards that hold every pair once"
            )
        repeated: dict[int, dict[int, str]] = {}
        for part, place in places:
            repeated.setdefault(part, {})[place] = "duplicate_uid"
        return repeated

    def _refused(self, manifests: Sequence[Manifest], refusals: Refusals) -> dict[int, list[int]]:
        """Return part -> rows that the recipe's lists name."""
        if not refusals:
            return {}
        refused: dict[int, list[int]] = {}
        for part, manifest in enumerate(manifests):
            table = pq.read_table(self._rows_path(manifest), columns=["uid", "url", "status"])
            for place, row in enumerate(table.to_pylist()):
                if row["status"] == "success" and refusals.names_pair(row["uid"], row["url"]):
                    refused.setdefault(part, []).append(place)
        return refused

    def write_columns(self, shards: Sequence[ReadyShard], manifests: Sequence[Manifest]) -> None:
        """Write the kept columns of every part beside its rows."""
        if not self._config.keep_columns:
            return
        folder = self._workspace.output / COLUMNS
        folder.mkdir()
        for shard, manifest in zip(shards, manifests, strict=True):
            rows = read_pairs(shard, self._config, scratch=self._workspace.scratch)
            kept = kept_columns([self._kept(row.pair) for row in rows], self._config.keep_columns)
            pq.write_table(kept, folder / f"{manifest.key}.parquet")

    def _kept(self, pair: Row) -> Row:
        """Return a pair with nothing in its kept columns if it was taken down."""
        if not self._taken_down.names_pair(pair.uid, pair.url):
            return pair
        return replace(pair, kept=tuple(None for _ in pair.kept))

    def _without(self, shard: ReadyShard, part: Manifest, reasons: dict[int, str]) -> Manifest:
        """Commit a part with the rows at some places failed for a reason."""
        identity = self._identity(
            digest({"part": part.key, "unwanted": sorted(reasons.items())}), shard
        )
        if is_committed(identity.uri) and not self._force:
            manifest = read_manifest(identity.uri)
            if adopted_tar(manifest) == adopted_tar(part):
                return manifest

        def drop(workspace: Workspace) -> Outcome:
            rows = pq.read_table(self._rows_path(part)).to_pylist()
            for place, reason in reasons.items():
                kept = {name: rows[place][name] for name in ("uid", "url")}
                rows[place] = {
                    **dict.fromkeys(rows[place]),
                    **kept,
                    "status": "failed",
                    "reason": reason,
                }
            ledger, messages = write_rows(rows, workspace.output / ROWS)
            return Outcome(ledger=ledger, summary={**part.summary, "messages": messages})

        return commit_stage(identity, drop, force=True)[0]

    def _rows_path(self, part: Manifest) -> Path:
        return committed_file(join(self._root, STAGE, PARTS, part.key), ROWS)

    def _identity(self, key: str, shard: ReadyShard) -> StageIdentity:
        return StageIdentity(
            stage=STAGE,
            stage_version=PARTITION_VERSION,
            key=key,
            section=self._section,
            inputs={"shard": name_of(shard.tar)},
            root=self._root,
            part=True,
        )


def _check_any_image(ledger: Ledger, messages: Messages, config: SourceConfig) -> None:
    """Raise if there is nothing to go on with, unless the recipe or a takedown wants none of it."""
    if ledger.out or ledger.dropped.get(REFUSED):
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in ledger.dropped.items())
    first = "; ".join(text for texts in messages.values() for text in list(texts)[:1])
    raise DataError(
        f"no image can be read in the shards in {config.adopt}: {ledger.entered} rows"
        f"{f', {reasons}' if reasons else ''}{f': {first}' if first else ''}. Expected plain tars of KEY.jpg, KEY.png "
        "or KEY.webp with KEY.txt and KEY.json, as img2dataset and DataComp write them; write the shards anew, or set "
        "acquire.adopt to others"
    )


def _check_failed_share(ledger: Ledger, config: SourceConfig, most: float) -> None:
    failed = ledger.entered - ledger.out
    if failed <= most * ledger.entered:
        return
    top = ", ".join(f"{count} {reason}" for reason, count in list(ledger.dropped.items())[:_SHOWN])
    raise DataError(
        f"{failed} of {ledger.entered} rows of the shards in {config.adopt} failed, {failed / ledger.entered:.0%}, "
        f"more than acquire.max_failed_share={most:g} allows: {top}. The likely cause: "
        f"{likely_cause(ledger.dropped)}. Write the shards anew, or raise acquire.max_failed_share"
    )


def _problems(shards: Sequence[ReadyShard], manifests: Sequence[Manifest]) -> dict[str, Any]:
    """Return what is wrong with shards that no row tells: of how many, and of the first of them what."""
    found = {
        shard.name: manifest.summary["problems"]
        for shard, manifest in zip(shards, manifests, strict=True)
        if manifest.summary["problems"]
    }
    first = list(found)[:_MOST_PROBLEMS]
    in_all: Counter[str] = Counter()
    for problems in found.values():
        in_all.update(problems)
    return {
        "shards_with_problems": len(found),
        "problems_of_all": dict(in_all.most_common(_MOST_PROBLEMS)),
        "problems": {name: found[name] for name in first},
        "problem_names": {
            shard.name: manifest.summary["problem_names"]
            for shard, manifest in zip(shards, manifests, strict=True)
            if shard.name in first
        },
    }


def _write_index(
    shards: Sequence[ReadyShard],
    manifests: Sequence[Manifest],
    texts: Sequence[Manifest],
    workspace: Workspace,
) -> None:
    rows = [
        Listed(
            part=manifest.key,
            texts=of_part.key,
            file=name_of(shard.table or shard.tar),
            first_row=0,
            rows=manifest.ledger.entered,
            out=manifest.ledger.out,
        )
        for shard, manifest, of_part in zip(shards, manifests, texts, strict=True)
    ]
    write_listing(rows, workspace.output / PARTITIONS_FILE)
