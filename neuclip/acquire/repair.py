"""Repair: fetch again what failed for a reason that may not hold the next time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.download import Shard
from neuclip.acquire.parts import Parts, commit_account, part_identity
from neuclip.acquire.reconcile import reconcile
from neuclip.acquire.retries import REPAIRS, ROUND, Attempts, find_attempts, outcomes
from neuclip.acquire.run import fetch, plan_parts
from neuclip.acquired.partitions import STAGE
from neuclip.egress.refusal import TRANSIENT_REASONS
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import Progress
from neuclip.stages.manifest import Manifest
from neuclip.stages.revisions import revise
from neuclip.storage.uris import join
from neuclip.table.plan import Partition


@dataclass(frozen=True)
class Repair:
    """What a repair did."""

    tried: int = 0
    """Rows that were fetched again."""
    fetched: int = 0
    """Rows that are there now, with those of an earlier repair that was ended before it was finished."""
    failed: dict[str, int] = field(default_factory=dict[str, int])
    """Rows that failed again, by reason."""
    retries: list[str] = field(default_factory=list[str])
    """Partitions that are new to the stage."""


def run_repair(
    config: AcquireConfig, stage: Manifest, *, root: str, scratch: Path, progress: Progress
) -> Repair:
    """Fetch the rows of a committed stage again that failed for one of TRANSIENT_REASONS, and revise the stage.

    The rows of a partition become a retry, committed as soon as it is fetched; one without any success is
    forgotten, so that a repair in vain changes nothing. Partitions that have a retry which the stage does not
    list yet were fetched by a repair that was ended: they are not fetched once more.

    Args:
        stage: the committed acquire stage of this recipe.
    Raises: ConfigError: if the table has rows that no committed partition has.
    """
    parts = plan_parts(config, root=root, scratch=scratch, progress=progress, force=False)
    if missing := parts.missing():
        raise ConfigError(
            f"{len(missing)} of {len(parts.planned)} partitions of {config.source} were never fetched, so there is "
            "nothing to repair in them; run `--only acquire` first"
        )
    work = _Work(config, parts, stage, root, scratch, progress)
    work.collect()
    if work.to_try:
        work.report()
        fetch(work.to_try, config, scratch=scratch, on_shard=work.finish, on_fetched=work.report)
    retries = sorted(work.retries)
    if retries:
        revise(join(root, STAGE), stage.key, "repair", {"retries": retries})
    failed = dict(sorted(work.failed.items(), key=lambda item: (-item[1], item[0])))
    return Repair(work.tried, sum(work.retries.values()), failed, retries)


class _Work:
    """The retries of one repair."""

    def __init__(
        self,
        config: AcquireConfig,
        parts: Parts,
        stage: Manifest,
        root: str,
        scratch: Path,
        progress: Progress,
    ) -> None:
        self.to_try: list[Partition] = []
        self.retries: dict[str, int] = {}
        self.tried = 0
        self.failed: Counter[str] = Counter()
        self._config, self._parts, self._stage = config, parts, stage
        self._root, self._scratch, self._progress = root, scratch, progress
        self._attempts_of: dict[str, Attempts] = {}

    def collect(self) -> None:
        """Find the rows to fetch, and what a repair that was ended has fetched."""
        acquire_uri = join(self._root, STAGE)
        partitions = {partition.key: partition for partition in self._parts.planned}
        bases = [self._parts.committed[key] for key in partitions]
        for attempts in find_attempts(acquire_uri, bases):
            unlisted = [part for part in attempts.retries if part.key not in self._stage.parts]
            self.retries |= {part.key: part.ledger.out for part in unlisted}
            if unlisted or not TRANSIENT_REASONS & attempts.base.ledger.dropped.keys():
                continue
            found = outcomes(acquire_uri, attempts)
            uids = [uid for uid, reason in found.items() if reason in TRANSIENT_REASONS]
            if uids:
                self._try(partitions[attempts.base.key], attempts, uids)

    def finish(self, partition: Partition, shard: Shard | None) -> None:
        """Commit a retry if one of its rows is there now."""
        attempts = self._attempts_of[partition.key]
        account = reconcile(partition, shard, folder=self._scratch / "retries" / partition.key)
        self.tried += partition.num_rows
        self.failed.update(account.ledger.dropped)
        if account.ledger.out:
            inputs = {
                REPAIRS: attempts.base.key,
                ROUND: str(attempts.next_round),
                "committed": attempts.base.started_at,
            }
            identity = part_identity(self._config, partition.key, inputs, root=self._root)
            commit_account(identity, account)
            self.retries[partition.key] = account.ledger.out
        self.report()

    def report(self, fetched: Counter[str | None] | None = None) -> None:
        """Report progress in rows; `fetched` are those of retries not finished yet, by reason."""
        waiting = fetched.total() if fetched else 0
        total = sum(partition.num_rows for partition in self.to_try)
        self._progress(
            STAGE,
            done=min(self.tried + waiting, total),
            total=total,
            note=f"repairing, {self.failed.total()} rows failed again",
        )

    def _try(self, base: Partition, attempts: Attempts, uids: Sequence[str]) -> None:
        """Plan the next retry of a partition: those of its rows, as the table has them."""
        rows = pq.read_table(base.plan_path)
        planned = zip(rows["uid"].to_pylist(), rows["reason"].to_pylist(), strict=True)
        wanted = set(uids)
        chosen = rows.take(
            [place for place, (uid, reason) in enumerate(planned) if uid in wanted and not reason]
        )
        if not len(chosen):
            return
        path = self._scratch / "plan" / f"{attempts.next_key()}.parquet"
        pq.write_table(chosen, path)
        partition = Partition(
            key=attempts.next_key(),
            file=base.file,
            first_row=base.first_row,
            num_rows=len(chosen),
            num_to_fetch=len(chosen),
            plan_path=path,
        )
        self._attempts_of[partition.key] = attempts
        self.to_try.append(partition)
