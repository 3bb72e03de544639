"""A folder of ready-made shards: which files belong together, and what tells one state of them from another.

img2dataset and DataComp's download leave NNNNN.tar, NNNNN.parquet and NNNNN_stats.json; DataComp's resharder leaves
tars with their counts but without tables.
"""

from dataclasses import dataclass

from neuclip.adopt.problems import some
from neuclip.foundation.errors import DataError
from neuclip.stages.keys import digest
from neuclip.storage.files import list_stamps, version_tag
from neuclip.storage.uris import absolute, is_local, join

ADOPTION_VERSION = 2
"""Raised when other rows come of the same shards."""

_TAR, _TABLE, _COUNTS = ".tar", ".parquet", "_stats.json"
_COMPRESSED = (".gz", ".tgz", ".zst", ".bz2", ".xz", ".lz4", ".zip")
_UNFINISHED = (".part", ".tmp", ".incomplete", ".partial")


@dataclass(frozen=True)
class ReadyShard:
    """The files of one shard by URI."""

    name: str
    tar: str
    table: str | None
    counts: str | None
    stamp: str
    """Of the tar, see `list_stamps`."""
    tags: tuple[str | None, ...]
    """What tells this content of the shard from another: of tar, table and counts."""


def find_shards(folder_uri: str) -> list[ReadyShard]:
    """Return the shards of a folder in the order of their names; gaps in their numbers do no harm.

    Raises: DataError: if there are none, or naming files that a shard lacks.
    """
    folder = absolute(folder_uri)
    stamps = list_stamps(folder)
    names = _shard_names(stamps)
    has_tables = any(f"{name}{_TABLE}" in stamps for name in names)
    _check_whole(folder, stamps, names, has_tables=has_tables)
    return [_shard(folder, name, stamps) for name in names]


def fingerprint_shards(folder_uri: str) -> str:
    """Return the fingerprint of all shards of a folder, the same wherever on this machine the folder lies.

    Raises: DataError: as `find_shards`.
    """
    return digest([ADOPTION_VERSION, [shard.tags for shard in find_shards(folder_uri)]])


def ignored_files(folder_uri: str, *, root: str) -> dict[str, list[str]]:
    """Return the files below a folder that belong to no shard that is adopted, by the reason why.

    Args:
        root: where neuclip writes; a root below the folder is none of its files.
    """
    folder, ours = absolute(folder_uri), absolute(root).rstrip("/") + "/"
    stamps = {
        name: stamp
        for name, stamp in list_stamps(folder).items()
        if not join(folder, name).startswith(ours)
    }
    taken = {name + end for name in _shard_names(stamps) for end in (_TAR, _TABLE, _COUNTS)}
    ignored: dict[str, list[str]] = {}
    for name in sorted(stamps):
        if name not in taken:
            ignored.setdefault(_why_ignored(name), []).append(name)
    return ignored


def _why_ignored(name: str) -> str:
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    if "/" in name:
        return "in a folder below; acquire.adopt takes one folder"
    if name.lower().endswith(_COMPRESSED):
        return "compressed; only plain .tar can be read in place"
    if name.lower().endswith(_UNFINISHED):
        return "not finished"
    return "not NAME.tar, NAME.parquet or NAME_stats.json of a shard"


def _shard_names(stamps: dict[str, str]) -> list[str]:
    """Return the names of shards: with a tar, or with numbers for a name, or with both table and counts."""
    direct = {name for name in stamps if "/" not in name and not name.startswith(".")}
    stems = {stem for name in direct if (stem := _stem(name)) is not None}
    return sorted(
        stem
        for stem in stems
        if stem + _TAR in direct or stem.isdecimal() or {stem + _TABLE, stem + _COUNTS} <= direct
    )


def _stem(name: str) -> str | None:
    """Return the name of the shard that a file belongs to, None for a file of another kind."""
    return next(
        (name.removesuffix(end) for end in (_TAR, _TABLE, _COUNTS) if name.endswith(end)), None
    )


def _check_whole(
    folder: str, stamps: dict[str, str], names: list[str], *, has_tables: bool
) -> None:
    if not any(name + _TAR in stamps for name in names):
        below = sorted(
            {name.rpartition("/")[0] for name in stamps if name.endswith(_TAR) and "/" in name}
        )
        packed = [name for name in stamps if name.lower().endswith(_COMPRESSED)]
        hint = f" (there are tars in {some(below)})" if below else ""
        hint += f" ({some(packed)} would have to be unpacked first)" if packed else ""
        raise DataError(
            f"expected shards (NNNNN.tar with NNNNN.parquet and NNNNN_stats.json) directly in {folder}, found none"
            f"{hint}; set acquire.adopt to the folder that img2dataset or DataComp wrote them into"
        )
    needed = (_TAR, _TABLE, _COUNTS) if has_tables else (_TAR,)
    missing = [name + end for name in names for end in needed if name + end not in stamps]
    if missing:
        raise DataError(
            f"shards in {folder} lack {len(missing)} files: {some(missing)}; the counts are what "
            "img2dataset writes last, so a shard without them was not finished: finish the download, or move what is "
            "left of these shards out of the folder (gaps in the numbers do no harm)"
        )


def _shard(folder: str, name: str, stamps: dict[str, str]) -> ReadyShard:
    files = {
        end: join(folder, name + end) if name + end in stamps else None
        for end in (_TAR, _TABLE, _COUNTS)
    }
    tar = join(folder, name + _TAR)
    if is_local(
        folder
    ):  # a stamp is of this copy of the file; the key must be the same for another
        tags = tuple(uri and version_tag(uri) for uri in files.values())
    else:
        tags = tuple(stamps.get(name + end) for end in files)
    return ReadyShard(
        name=name,
        tar=tar,
        table=files[_TABLE],
        counts=files[_COUNTS],
        stamp=stamps[name + _TAR],
        tags=tags,
    )
