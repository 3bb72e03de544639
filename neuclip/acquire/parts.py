"""The partitions of one run: reused, fetched and committed one by one, or held back on suspicion."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from neuclip.acquire.config import AcquireConfig
from neuclip.acquire.download import Shard
from neuclip.acquire.reconcile import Account, reconcile
from neuclip.acquire.throughput import Throughput
from neuclip.acquired.partitions import PARTITION_VERSION, STAGE
from neuclip.acquired.rows import Messages
from neuclip.acquired.texts import chosen_texts, commit_texts
from neuclip.foundation.progress import Progress
from neuclip.stages.ledger import Ledger
from neuclip.stages.manifest import Manifest, is_committed, read_manifest, verify_sizes
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.table.plan import Partition


class Parts:
    """Keeps the ledgers of a run's partitions and commits them.

    A partition that looks as if the network had been down is held back until `commit_held`: committed,
    it would never be fetched again.
    """

    def __init__(
        self,
        planned: Sequence[Partition],
        config: AcquireConfig,
        *,
        root: str,
        folder: Path,
        progress: Progress,
        force: bool,
    ) -> None:
        self.ledgers: dict[str, Ledger] = {}
        self.committed: dict[str, Manifest] = {}
        self.messages: list[Messages] = []
        self.planned = planned
        self._config = config
        self._root = root
        self._folder = folder
        self._progress = progress
        self._force = force
        self._held: list[tuple[Partition, Account]] = []
        self._throughput = Throughput()
        self._out, self._dropped = 0, Counter[str]()

    def missing(self) -> list[Partition]:
        """Take over what is committed, unless forced; return the partitions that are to be done.

        Raises: IntegrityError: if a committed partition has lost a file.
        """
        missing: dict[str, Partition] = {}
        for partition in self.planned:
            uri = self._identity(partition).uri
            if is_committed(uri) and not self._force:
                manifest = read_manifest(uri)
                verify_sizes(uri, manifest)
                self.committed[partition.key] = manifest
                self._take(partition, manifest.ledger, manifest.summary["messages"])
            else:
                missing[partition.key] = partition
        return list(missing.values())

    def finish(self, partition: Partition, shard: Shard | None) -> None:
        """Account for a partition that has been fetched, and commit it or hold it back."""
        account = reconcile(partition, shard, folder=self._folder / partition.key)
        self._take(partition, account.ledger, account.messages)
        self._out += account.ledger.out
        self._dropped.update(account.ledger.dropped)
        if account.failed_by_network() > self._config.max_failed_share:
            self._held.append((partition, account))
        else:
            self._commit(partition, account)

    def commit_held(self) -> None:
        """Commit what was held back: the table as a whole turned out well."""
        for partition, account in self._held:
            self._commit(partition, account)
        self._held.clear()

    def commit_texts(self, *, force: bool) -> list[Manifest]:
        """Commit the texts of all partitions that are not there; return them in order."""
        texts: list[Manifest] = []
        for partition in self.planned:
            assert partition.texts_path is not None
            texts.append(
                commit_texts(
                    partition.texts_key,
                    partition.texts_path,
                    root=self._root,
                    of=partition.file,
                    force=force,
                )
            )
        return texts

    def commit_texts_of_retry(
        self, base: Partition, uids: Sequence[str], *, force: bool
    ) -> Manifest:
        """Commit the texts of rows of a partition that were tried again."""
        assert base.texts_path is not None
        key, table = chosen_texts(pq.read_table(base.texts_path), uids)
        return commit_texts(key, table, root=self._root, of=base.file, force=force)

    def failed_hosts(self) -> dict[str, int]:
        """Return the hosts with most failures, those held back among them."""
        counts: Counter[str] = Counter()
        for manifest in self.committed.values():
            counts.update(manifest.summary["failed_hosts"])
        for _, account in self._held:
            counts.update(account.failed_hosts)
        return dict(counts.most_common())

    def report(self, fetched: Counter[str | None] | None = None) -> None:
        """Report progress in rows; `fetched` are those of partitions not finished yet, by reason."""
        now = fetched or Counter[str | None]()
        total = sum(partition.num_rows for partition in self.planned)
        done = sum(ledger.entered for ledger in self.ledgers.values()) + now.total()
        dropped = self._dropped + Counter({r: n for r, n in now.items() if r is not None})
        throughput = self._throughput.say(self._out + now[None], dropped, max(0, total - done))
        note = f"{len(self.ledgers)} of {len(self.planned)} partitions"
        note = ", ".join(filter(None, [throughput, note]))  # a narrow terminal cuts the end off
        self._progress(STAGE, done=min(done, total), total=total, note=note)

    def _take(self, partition: Partition, ledger: Ledger, messages: Messages) -> None:
        self.ledgers[partition.key] = ledger
        self.messages.append(messages)

    def _commit(self, partition: Partition, account: Account) -> None:
        self.committed[partition.key] = commit_account(
            self._identity(partition), account, force=self._force
        )

    def _identity(self, partition: Partition) -> StageIdentity:
        rows = {"rows": f"{partition.num_rows} of {partition.file}"}
        return part_identity(self._config, partition.key, rows, root=self._root)


def part_identity(
    config: AcquireConfig, key: str, inputs: dict[str, str], *, root: str
) -> StageIdentity:
    """Return the identity of a partition that is fetched."""
    return StageIdentity(
        stage=STAGE,
        stage_version=PARTITION_VERSION,
        key=key,
        section=config.fetch_settings(),
        inputs=inputs,
        root=root,
        part=True,
    )


def commit_account(identity: StageIdentity, account: Account, *, force: bool = False) -> Manifest:
    """Commit what became of a partition."""

    def move(workspace: Workspace) -> Outcome:
        for path in account.folder.iterdir():
            path.rename(workspace.output / path.name)
        summary = {"messages": account.messages, "failed_hosts": account.failed_hosts}
        return Outcome(ledger=account.ledger, summary=summary)

    manifest, _ = commit_stage(identity, move, force=force)
    return manifest
