"""What the counts of a ready-made shard (NAME_stats.json) say, held against what is there."""

import json
from collections.abc import Sequence

from neuclip.adopt.problems import Problems
from neuclip.adopt.shards import ReadyShard
from neuclip.storage.files import read_bytes

Counts = dict[str, int]

_MOST_LACKING = 1_000_000


def said_of(shard: ReadyShard, names: Sequence[str], problems: Problems) -> Counts:
    """Return what the counts say; nothing where there are none, or none that can be read, which is noted."""
    if shard.counts is None:
        return {}
    try:
        counts = json.loads(read_bytes(shard.counts))
        said = {name: counts[name] for name in names}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        said = {}
    if not said or not all(type(count) is int and count >= 0 for count in said.values()):
        problems.note("the counts cannot be read", shard.counts)
        return {}
    return said


def lacking(said: Counts, found: Counts, problems: Problems) -> int:
    """Return how many rows the counts have and the shard has not; that they differ is noted.

    img2dataset loses samples without a word over some columns: its counts then say more than its table.
    """
    if not said or said == found:
        return 0
    problems.note(f"its counts say {said}, found {found}")
    first = next(iter(said))
    missing = max(0, said[first] - found[first])
    return missing if missing <= _MOST_LACKING else 1
