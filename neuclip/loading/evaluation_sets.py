"""Evaluation sets in the wds_* layout that DataComp and CLIP_benchmark use.

wds_NAME[_test]/
classnames.txt                           a class on each line            (classification)
zeroshot_classification_templates.txt    a prompt on each line, {c} is the class (classification)
dataset_type.txt                         `retrieval`; absent for classification
test/nshards.txt                         the number of shards
test/0.tar, test/1.tar, ...              KEY.jpg|png|webp with KEY.cls, or with KEY.txt: captions by line
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from neuclip.foundation.errors import DataError
from neuclip.loading.tar_samples import TarSample, read_samples
from neuclip.storage.cache import local_copy
from neuclip.storage.files import exists, read_bytes, sha256_of
from neuclip.storage.uris import join, name_of

EVALUATION_VERSION = 1
"""Raised whenever the way of scoring changes, so that no score is compared with one of another kind."""
TYPE_FILE = "dataset_type.txt"
CLASSES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
COUNT_FILE = "test/nshards.txt"
_VERSION_DIGITS = 16


@dataclass(frozen=True)
class EvaluationSet:
    """What to score a model on."""

    name: str
    kind: Literal["classification", "retrieval"]
    shard_uris: tuple[str, ...]
    suite_version: str
    """Hash of every file that is read and of EVALUATION_VERSION."""
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def samples(self) -> Iterator[TarSample]:
        """Yield all samples in shard order."""
        for uri in self.shard_uris:
            yield from read_samples(local_copy(uri))


def read_set(uri: str) -> EvaluationSet:
    """Read the description of a set.

    Raises: DataError: naming the file and what it should hold.
    """
    kind = _read_kind(uri)
    texts = [COUNT_FILE, *([TYPE_FILE] if exists(join(uri, TYPE_FILE)) else [])]
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    if kind == "classification":
        classnames = _read_lines(uri, CLASSES_FILE, "a class on each line")
        templates = _read_lines(uri, TEMPLATES_FILE, "a prompt with {c} on each line")
        without = [template for template in templates if "{c}" not in template]
        if without:
            raise DataError(
                f"{join(uri, TEMPLATES_FILE)}: the template {without[0]!r} has no {{c}} for the class"
            )
        texts += [CLASSES_FILE, TEMPLATES_FILE]
    shards = [f"test/{number}.tar" for number in range(_read_count(uri))]
    for shard in shards:
        if not exists(join(uri, shard)):
            raise DataError(
                f"{join(uri, COUNT_FILE)} counts {len(shards)} shards, but {shard} is missing"
            )
    return EvaluationSet(
        name=name_of(uri).removeprefix("wds_").removesuffix("_test"),
        kind=kind,
        shard_uris=tuple(join(uri, shard) for shard in shards),
        suite_version=_version(uri, kind, sorted([*texts, *shards])),
        classnames=classnames,
        templates=templates,
    )


def _read_kind(uri: str) -> Literal["classification", "retrieval"]:
    """Read what kind of set it is."""
    if not exists(join(uri, TYPE_FILE)):
        return "classification"
    kind = read_bytes(join(uri, TYPE_FILE)).decode().strip().lower()
    if kind == "retrieval":
        return "retrieval"
    if kind == "classification":
        return "classification"
    raise DataError(
        f"{join(uri, TYPE_FILE)} says {kind!r}; sets of kind classification and retrieval can be scored"
    )


def _read_lines(uri: str, name: str, expectation: str) -> tuple[str, ...]:
    """Read the lines of a text file; only the end of the file may be blank."""
    if not exists(join(uri, name)):
        raise DataError(
            f"no {name} in {uri}; a set for classification has {expectation} there, "
            f"a set for retrieval says so in {TYPE_FILE}"
        )
    lines = [
        line.strip() for line in read_bytes(join(uri, name)).decode("utf-8").rstrip().splitlines()
    ]
    if not lines or not all(lines):
        raise DataError(f"{join(uri, name)} is empty or has an empty line; expected {expectation}")
    return tuple(lines)


def _read_count(uri: str) -> int:
    """Read the number of shards."""
    if not exists(join(uri, COUNT_FILE)):
        raise DataError(
            f"no {COUNT_FILE} in {uri}; it holds the number of shards test/0.tar, test/1.tar, ..."
        )
    text = read_bytes(join(uri, COUNT_FILE)).decode().strip()
    if not text.isdecimal() or int(text) < 1:
        raise DataError(
            f"{join(uri, COUNT_FILE)} holds {text!r}; expected a number of shards from 1"
        )
    return int(text)


def _version(uri: str, kind: str, names: list[str]) -> str:
    """Hash everything that a score depends on besides the model."""
    files = {name: sha256_of(str(local_copy(join(uri, name)))) for name in names}
    content = json.dumps([EVALUATION_VERSION, kind, files], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_VERSION_DIGITS]
