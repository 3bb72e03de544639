"""Evaluation sets in the wds_* layout that DataComp and CLIP_benchmark use.

wds_NAME[_test]/
classnames.txt                           a class on each line            (classification)
zeroshot_classification_templates.txt    a prompt on each line, {c} is the class (classification)
dataset_type.txt                         `multilabel`, `retrieval` or `choice`; absent for classification
main_metric.txt                          the metric that the set is told by; may be absent, see evaluation.main_metric
test/nshards.txt                         the number of shards
test/0.tar, test/1.tar, ...              KEY.jpg|png|webp with KEY.cls, KEY.npy, or KEY.txt: captions by line
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from neuclip.foundation.errors import DataError
from neuclip.foundation.text import split_lines
from neuclip.loading.tar_samples import TarSample, read_samples
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists, list_files, read_bytes, sha256_of
from neuclip.storage.uris import join, name_of

EVALUATION_VERSION = 2
"""Raised whenever the way of scoring changes, so that no score is compared with one of another kind."""
TYPE_FILE = "dataset_type.txt"
CLASSES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
METRIC_FILE = "main_metric.txt"
COUNT_FILE = "test/nshards.txt"
_WITH_CLASSES, _WITHOUT = ("classification", "multilabel"), ("retrieval", "choice")
_SHOWN = 5
_MOST_SHARDS = 1_000_000
_VERSION_DIGITS = 16


@dataclass(frozen=True)
class EvaluationSet:
    """What to score a model on."""

    name: str
    kind: str
    """As dataset_type.txt has it; which kinds can be scored, evaluation.kinds says."""
    shard_uris: tuple[str, ...]
    suite_version: str
    """Hash of every file that is read and of EVALUATION_VERSION."""
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    declared_metric: str | None = None
    """What main_metric.txt says, None if there is none."""

    def samples(self) -> Iterator[TarSample]:
        """Yield all samples in shard order."""
        for uri in self.shard_uris:
            yield from read_samples(local_copy(uri))


def read_set(uri: str) -> EvaluationSet:
    """Read the description of a set.

    Raises: DataError: naming the file and what it should hold.
    """
    kind = _read_kind(uri)
    texts = [COUNT_FILE, *(name for name in (TYPE_FILE, METRIC_FILE) if exists(join(uri, name)))]
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    if kind in _WITH_CLASSES or (kind not in _WITHOUT and exists(join(uri, CLASSES_FILE))):
        classnames = _read_lines(uri, CLASSES_FILE, "a class on each line")
        templates = _read_lines(uri, TEMPLATES_FILE, "a prompt with {c} on each line")
        without = [template for template in templates if "{c}" not in template]
        if without:
            raise DataError(
                f"{join(uri, TEMPLATES_FILE)}: the template {without[0]!r} has no {{c}} for the class"
            )
        texts += [CLASSES_FILE, TEMPLATES_FILE]
    shards = [f"test/{number}.tar" for number in range(_read_count(uri))]
    _check_shards(uri, shards)
    return EvaluationSet(
        name=name_of(uri).removeprefix("wds_").removesuffix("_test"),
        kind=kind,
        shard_uris=tuple(join(uri, shard) for shard in shards),
        suite_version=_version(uri, kind, sorted([*texts, *shards])),
        classnames=classnames,
        templates=templates,
        declared_metric=_read_text(uri, METRIC_FILE).strip() if METRIC_FILE in texts else None,
    )


def _read_kind(uri: str) -> str:
    """Read what kind of set it is."""
    if not exists(join(uri, TYPE_FILE)):
        return "classification"
    return _read_text(uri, TYPE_FILE).strip().lower()


def _read_lines(uri: str, name: str, expectation: str) -> tuple[str, ...]:
    """Read the lines of a text file; only the end of the file may be blank."""
    if not exists(join(uri, name)):
        raise DataError(
            f"no {name} in {uri}; a set for classification has {expectation} there, "
            f"a set for retrieval says so in {TYPE_FILE}"
        )
    lines = [line.strip() for line in split_lines(_read_text(uri, name).rstrip())]
    if not lines or not all(lines):
        raise DataError(f"{join(uri, name)} is empty or has an empty line; expected {expectation}")
    return tuple(lines)


def _read_text(uri: str, name: str) -> str:
    """Read a text file, without the mark that some editors put before it."""
    try:
        return read_bytes(join(uri, name)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{join(uri, name)} is not UTF-8 text: {error}; write it anew") from error


def _check_shards(uri: str, shards: list[str]) -> None:
    """Raise unless the tars that are there are those that are counted: no other would be scored."""
    names = (name for name in list_files(join(uri, "test")) if name.endswith(".tar"))
    there = {f"test/{name}" for name in names if not name_of(name).startswith(".")}
    missing = [shard for shard in shards if shard not in there]
    uncounted = sorted(there.difference(shards))
    counted = f"{join(uri, COUNT_FILE)} counts {len(shards)} shards"
    found = f"the tars there are {_some(sorted(there)) or 'none'}"
    if missing:
        raise DataError(
            f"{counted}, but {_some(missing)} is missing; {found}; put it there, or correct the count"
        )
    if uncounted:
        raise DataError(
            f"{counted}, test/0.tar to {shards[-1]}, but {_some(uncounted)} is there too and would not be scored; "
            "correct the count, or take the file away"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _read_count(uri: str) -> int:
    """Read the number of shards."""
    if not exists(join(uri, COUNT_FILE)):
        raise DataError(
            f"no {COUNT_FILE} in {uri}; it holds the number of shards test/0.tar, test/1.tar, ..."
        )
    text = _read_text(uri, COUNT_FILE).strip()
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _MOST_SHARDS):
        raise DataError(
            f"{join(uri, COUNT_FILE)} holds {text[:40]!r}; expected a number of shards from 1"
        )
    return int(text)


def _version(uri: str, kind: str, names: list[str]) -> str:
    """Hash everything that a score depends on besides the model."""
    files = {name: sha256_of(str(local_copy(join(uri, name)))) for name in names}
    content = json.dumps([EVALUATION_VERSION, kind, files], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_VERSION_DIGITS]
