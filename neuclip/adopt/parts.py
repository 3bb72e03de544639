"""Parts of adopted shards: the outcome rows of each and its texts, as a worker is handed them."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from neuclip.acquired.adopted_tar import ADOPTED_TAR, adopted_tar, is_unchanged
from neuclip.acquired.partitions import PARTITION_VERSION, STAGE
from neuclip.acquired.refusals import Refusals
from neuclip.acquired.texts import TEXTS_VERSION, texts_identity, write_texts
from neuclip.adopt.account import ShardAccount, account_for, read_texts
from neuclip.adopt.shards import ADOPTION_VERSION, ReadyShard
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import Progress
from neuclip.stages.keys import digest
from neuclip.stages.manifest import Manifest, is_committed, read_manifest
from neuclip.stages.part_work import Part
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace, commit_stage
from neuclip.storage.uris import name_of
from neuclip.table.config import SourceConfig

log = logging.getLogger(__name__)

_VERSION = [PARTITION_VERSION, ADOPTION_VERSION]
_SETTINGS = ("url_column", "uid_column", "caption_column", "adopted_caption")
"""What rows depend on. The alt text is among it where uids are derived from it; other texts change no rows."""


@dataclass(frozen=True)
class Adoption:
    """What all shards of a run have in common.

    Args:
        taken_down: pairs that keep nothing but their uid.
    """

    config: SourceConfig
    root: str
    taken_down: Refusals

    @cached_property
    def section(self) -> dict[str, Any]:
        """The settings that rows depend on."""
        return {name: v for name, v in self.config.keyed().items() if name in _SETTINGS}

    def rows_part(self, shard: ReadyShard) -> tuple[Part, bool]:
        """Plan the rows of a shard; return the part, and whether what is committed of it holds.

        It does not if it names a tar that lies elsewhere now, or was changed.
        """
        key = digest({"stage_version": _VERSION, "adopted": self.section, "shard": _tags(shard)})
        identity = self.identity(key, shard)
        is_there = is_committed(identity.uri)
        holds = is_there and _names_tar(read_manifest(identity.uri), shard)
        part = Part(
            identity,
            partial(_verify, self, shard),
            note=f"verifying shard {shard.name}",
            redo=is_there and not holds,
        )
        return part, holds

    def texts_part(self, shard: ReadyShard) -> Part:
        """Plan the texts of a shard, which are there already if it has just been verified."""
        return Part(
            self.texts_identity(shard),
            partial(_read_texts, self, shard),
            note=f"reading the texts of shard {shard.name}",
        )

    def identity(self, key: str, shard: ReadyShard) -> StageIdentity:
        """Return the identity of rows of a shard."""
        return StageIdentity(
            stage=STAGE,
            stage_version=PARTITION_VERSION,
            key=key,
            section=self.section,
            inputs={"shard": name_of(shard.tar)},
            root=self.root,
            part=True,
        )

    def texts_identity(self, shard: ReadyShard) -> StageIdentity:
        """Return the identity of the texts of a shard."""
        key = digest(
            {
                "texts_version": [TEXTS_VERSION, *_VERSION],
                "adopted": {**self.section, "caption_columns": self.config.caption_columns},
                "shard": _tags(shard),
            }
        )
        return texts_identity(key, root=self.root, of=name_of(shard.tar))


def _tags(shard: ReadyShard) -> list[str | None]:
    return [shard.name, *shard.tags]


def _names_tar(part: Manifest, shard: ReadyShard) -> bool:
    """Tell whether committed rows name the tar of a shard as it is, where it lies now."""
    tar = adopted_tar(part)
    return tar is not None and tar.uri == shard.tar and is_unchanged(tar, shard.stamp)


def _verify(
    adoption: Adoption, shard: ReadyShard, workspace: Workspace, progress: Progress
) -> Outcome:
    """Account for the rows of a shard, and commit its texts, so that the shard is read once.

    Raises: DataError: if the shard contradicts itself.
    """
    del progress
    with _naming(shard):
        account = account_for(
            shard,
            adoption.config,
            folder=workspace.output,
            scratch=workspace.scratch,
            taken_down=adoption.taken_down,
        )
        _warn(shard, account)
        commit_stage(
            adoption.texts_identity(shard), partial(write_texts, account.texts), force=True
        )
    summary = {
        "messages": account.messages,
        "problems": account.problems,
        "problem_names": account.names,
        ADOPTED_TAR: account.tar.model_dump(),
    }
    return Outcome(ledger=account.ledger, summary=summary)


def _read_texts(
    adoption: Adoption, shard: ReadyShard, workspace: Workspace, progress: Progress
) -> Outcome:
    """Read the texts of a shard alone.

    Raises: DataError: as `_verify`.
    """
    del progress
    with _naming(shard):
        texts = read_texts(
            shard, adoption.config, scratch=workspace.scratch, taken_down=adoption.taken_down
        )
        return write_texts(texts, workspace)


@contextmanager
def _naming(shard: ReadyShard) -> Generator[None]:
    """Raise what reading a shard raises as an error over its content, with its name."""
    try:
        yield
    except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
        log.debug("shard %s", shard.tar, exc_info=True)
        raise DataError(f"{shard.tar}: {error!r}") from error


def _warn(shard: ReadyShard, account: ShardAccount) -> None:
    if account.problems:
        told = "; ".join(
            f"{count} {reason}"
            + (f" ({', '.join(names)})" if (names := account.names.get(reason)) else "")
            for reason, count in account.problems.items()
        )
        log.warning("shard %s: %s", shard.tar, told)
