"""One part of a source that a model writes: the answers about the kept pairs of one partition, each with its status."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from neuclip.captions.config import PART_VERSION
from neuclip.captions.files import TEXTS, TEXTS_SCHEMA
from neuclip.captions.kept import Place, read_images, read_uids
from neuclip.captions.parts import read_part
from neuclip.foundation.progress import Progress
from neuclip.generation.answers import Asked, answer_all
from neuclip.generation.backend import Backend
from neuclip.generation.checks import Judged, Status
from neuclip.generation.config import Endpoint, GenerateStep, Model, Price
from neuclip.generation.journal import Journal, journal_uri
from neuclip.generation.prompts import prompt_id
from neuclip.generation.spending import Spending
from neuclip.stages.keys import digest
from neuclip.stages.lease import leased
from neuclip.stages.ledger import make_ledger
from neuclip.stages.loaded import Loaded
from neuclip.stages.workspace import Outcome, StageIdentity, Workspace
from neuclip.storage.uris import join, name_of

STAGE = "caption"
_AT_ONCE = 256


class Similarity(Protocol):
    """Says how well texts fit images."""

    model: str
    """What the cosines depend on: a hash of weights."""

    def cosines(self, images: Sequence[bytes], texts: Sequence[str]) -> list[float | None]:
        """Return the cosine of each image with its text; None for an image that cannot be read."""
        ...


@dataclass(frozen=True)
class Writing:
    """A step, and who answers its questions.

    Args:
        weights: fingerprint of the model's files; empty for an endpoint, whose name says all there is.
        similarity: compares answers and alt texts with images; None leaves that check out.
        margin: by how much an answer's cosine may be below that of the alt text.
    """

    step: GenerateStep
    model: Model
    weights: str
    backend: Loaded[Backend]
    similarity: Loaded[Similarity] | None = None
    margin: float = 0.0

    @property
    def asked(self) -> dict[str, Any]:
        """What answers depend on besides their questions: their journals lie apart by it."""
        return {
            "model": self.model.keyed(),
            "weights": self.weights,
            "sampling": self.step.sampling.keyed(),
        }

    @property
    def price(self) -> Price | None:
        """Of the model's tokens."""
        return self.model.price if isinstance(self.model, Endpoint) else None

    def key(self) -> dict[str, Any]:
        """Return what a part depends on besides the pairs."""
        return {"step": self.step.keyed(), "prompt": prompt_id(self.step), **self.asked}


@dataclass(frozen=True)
class Task:
    """What one part is made of.

    Args:
        of: source -> folder of the part with its texts, for the sources that the step reads and the partition has.
        alt: folder of the part with the alt texts; None if the partition has none.
    """

    writing: Writing
    root: str
    place: Place
    of: Mapping[str, str]
    alt: str | None


def part_identity(task: Task, kept: str) -> StageIdentity:
    """Return the identity of a part.

    Args:
        kept: names the kept pairs of the partition.
    """
    writing, step = task.writing, task.writing.step
    made_of: dict[str, object] = {"of": {source: name_of(uri) for source, uri in task.of.items()}}
    if step.sees:
        made_of["images"] = [task.place.name, kept]
    if writing.similarity is not None:
        alt = None if task.alt is None else name_of(task.alt)
        made_of["similarity"] = [writing.similarity.here().model, writing.margin, alt, kept]
    key = {"version": PART_VERSION, "source": step.source, **writing.key(), **made_of}
    return StageIdentity(
        stage=STAGE,
        stage_version=PART_VERSION,
        key=digest(key),
        section={"source": step.source, **writing.key()},
        inputs={"partition": task.place.name},
        root=task.root,
        part=True,
    )


def write_answers(
    task: Task, spending: Spending, workspace: Workspace, progress: Progress
) -> Outcome:
    """Ask what the journal does not know, and write all answers with their status; the ledger counts questions.

    Raises: what `answer_all` raises.
    """
    writing = task.writing
    asked = list(_questions(task))
    uri = journal_uri(join(task.root, STAGE), writing.asked, read_uids(task.place))
    with (
        leased(task.root, STAGE, name_of(uri), part=True),
        Journal(uri) as journal,
    ):
        answers = answer_all(
            writing.step,
            asked,
            backend=writing.backend.here,
            journal=journal,
            spending=spending,
            progress=progress,
        )
    judged = _compared(task, asked, answers.judged)
    _write(asked, judged, writing.step.source, workspace)
    counts = Counter(one.status for one in judged)
    num_ok = counts.pop(Status.OK, 0)
    ok = {
        one.uid for one, verdict in zip(asked, judged, strict=True) if verdict.status == Status.OK
    }
    summary = {
        "pairs": len(ok),
        "asked": answers.asked,
        "prompt_tokens": answers.cost.prompt,
        "completion_tokens": answers.cost.completion,
        "money": round(answers.cost.money, 6),
        "seconds": round(answers.seconds, 3),
    }
    return Outcome(make_ledger(len(asked), num_ok, {str(s): n for s, n in counts.items()}), summary)


def _questions(task: Task) -> Iterator[Asked]:
    """Yield what the step asks, pairs in order; pairs that lack a text it is made of are not asked about."""
    step = task.writing.step
    images = {one.uid: one for one in read_images(task.place)} if step.sees else {}
    firsts = {
        source: {uid: texts[0] for uid, texts in read_part(uri)} for source, uri in task.of.items()
    }
    reads = step.reads()
    uids = list(images) if step.sees else list(firsts[reads[0]])
    for uid in uids:
        if any(uid not in firsts.get(source, {}) for source in reads):
            continue
        texts = {source: firsts[source][uid] for source in reads}
        image = images.get(uid)
        for k in range(step.each):
            if image is None:
                yield Asked(uid, k, texts)
            else:
                yield Asked(uid, k, texts, image.content_id, image.read)


def _compared(task: Task, asked: Sequence[Asked], judged: list[Judged]) -> list[Judged]:
    """Return the answers, those that fit their image worse than its alt text does as `low_similarity`."""
    writing = task.writing
    if writing.similarity is None or task.alt is None:
        return judged
    alt = {uid: texts[0] for uid, texts in read_part(task.alt)}
    images = {one.uid: one for one in read_images(task.place)}
    places = [
        place
        for place, (one, verdict) in enumerate(zip(asked, judged, strict=True))
        if verdict.status is Status.OK and one.uid in alt
    ]
    compared = list(judged)
    for first in range(0, len(places), _AT_ONCE):
        here = places[first : first + _AT_ONCE]
        files = [images[asked[place].uid].read() for place in here]
        of_answer = writing.similarity.here().cosines(files, [judged[place].text for place in here])
        of_alt = writing.similarity.here().cosines(files, [alt[asked[place].uid] for place in here])
        for place, new, old in zip(here, of_answer, of_alt, strict=True):
            if new is not None and old is not None and new < old - writing.margin:
                compared[place] = Judged(judged[place].text, Status.LOW_SIMILARITY)
    return compared


def _write(
    asked: Sequence[Asked], judged: Sequence[Judged], source: str, workspace: Workspace
) -> None:
    table = pa.table(
        [
            [one.uid for one in asked],
            [source] * len(asked),
            [one.k for one in asked],
            [one.text for one in judged],
            [str(one.status) for one in judged],
        ],
        schema=TEXTS_SCHEMA,
    )
    pq.write_table(table, workspace.output / TEXTS, compression="zstd")
