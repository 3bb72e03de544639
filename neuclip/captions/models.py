"""Sources that models write, part by part, within the budget."""

from collections.abc import Sequence
from functools import partial

from neuclip.acquired.texts import ALT
from neuclip.captions.config import CaptionConfig
from neuclip.captions.generated import STAGE, Task, Writing, part_identity, write_answers
from neuclip.captions.kept import Gathered
from neuclip.foundation.progress import Progress
from neuclip.generation.config import Budget
from neuclip.generation.journal import spent_in
from neuclip.generation.spending import Cost, Spending, cost_of, rest_of
from neuclip.stages.keys import digest
from neuclip.stages.manifest import PARTS, Manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.pool import Pool
from neuclip.storage.uris import join


class Models:
    """Has models write sources, within the budget."""

    def __init__(
        self,
        config: CaptionConfig,
        root: str,
        writings: Sequence[Writing],
        pool: Pool,
        progress: Progress,
        *,
        force: bool,
    ) -> None:
        self._root, self._pool, self._progress, self._force = root, pool, progress, force
        self._writings = {writing.step.source: writing for writing in writings}
        self._budget = config.budget
        self._spent = Cost()
        self._done: dict[str, list[Manifest]] = {}
        if self._budget != Budget():
            for writing in {digest(one.asked): one for one in writings}.values():
                self._spent += spent_on(writing, root)

    def write(self, source: str, partitions: Sequence[Gathered]) -> None:
        """Make the parts of a source; partitions without what it reads have none."""
        writing = self._writings[source]
        tasks = {
            number: self._task(writing, partition)
            for number, partition in enumerate(partitions)
            if writing.step.sees or all(s in partition.parts for s in writing.step.reads())
        }
        shared = self._spending(writing, 1.0)
        sizes = {number: self._size(writing, partitions[number]) for number in tasks}
        total = sum(sizes.values())
        parts = [
            Part(
                part_identity(task, partitions[number].kept),
                partial(
                    write_answers,
                    task,
                    shared
                    if self._pool.is_here
                    else self._spending(writing, sizes[number] / max(total, 1)),
                ),
                note=f"{source}: part {number + 1} of {len(partitions)}",
                size=sizes[number],
            )
            for number, task in tasks.items()
        ]
        done = do_parts(parts, pool=self._pool, progress=self._progress, force=self._force)
        self._spent += shared.spent
        self._done[source] = done
        for number, manifest in zip(tasks, done, strict=True):
            partitions[number].parts[source] = manifest

    def summary(self) -> dict[str, object]:
        """Return what the answers of each source have cost when they were asked for."""
        if not self._done:
            return {}
        names = ("asked", "prompt_tokens", "completion_tokens", "money", "seconds")
        return {
            "generated": {
                source: {
                    "model": self._writings[source].model.keyed(),
                    **{name: round(sum(part.summary[name] for part in done), 6) for name in names},
                }
                for source, done in self._done.items()
            }
        }

    def _task(self, writing: Writing, partition: Gathered) -> Task:
        uris = {s: join(self._root, STAGE, PARTS, p.key) for s, p in partition.parts.items()}
        of = {source: uris[source] for source in writing.step.reads()}
        return Task(writing, self._root, partition.place, of, uris.get(ALT))

    def _size(self, writing: Writing, partition: Gathered) -> int:
        """Return about how many questions a part has."""
        pairs = [partition.parts[s].summary["pairs"] for s in writing.step.reads()]
        return writing.step.each * min(pairs, default=partition.pairs)

    def _spending(self, writing: Writing, share: float) -> Spending:
        return Spending(
            rest_of(self._budget, self._spent, share=share),
            writing.price,
            most_tokens=writing.step.sampling.max_tokens,
        )


def spent_on(writing: Writing, root: str) -> Cost:
    """Return what the answers of a model have cost at a root, those included that are of no use by now."""
    spent = spent_in(join(root, STAGE), writing.asked)
    return cost_of(spent.prompt, spent.completion, writing.price)
