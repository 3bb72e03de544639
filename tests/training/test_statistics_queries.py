"""Pairs planted among others must come first in the queries of docs/objectives.md. Oracle: what was planted."""

import re
from pathlib import Path

import pytest
import torch
from made.indexed import count_samples
from torch.nn.functional import normalize

from neuclip.distributed.world import World
from neuclip.foundation.randomness import permutation
from neuclip.index.sample_index import STATISTICS, SampleIndex
from neuclip.objectives.registry import build
from neuclip.stages.ledger import make_ledger
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage
from neuclip.training.sample_statistics import SampleStatistics

DOCS = Path(__file__).parents[2] / "docs" / "objectives.md"
BATCH, WIDTH, MATES = 8, 64, 6
HARD, COPIES = range(4), range(4, 14)
VAGUE_TEXTS, VAGUE_IMAGES = (20, 30, 40, 50), (60, 70, 80, 90)

LAST_BATCH = {}


def seen_alone(number, group):
    """Whether the batch of the last visit held no other of the group: those that it held raise the loss."""
    return [other for other in LAST_BATCH[number] if other in group] == [number]


def planted(count):
    """Features of pairs: most alone; some with a wrong text, with a copy, or fitting their neighbours."""
    draw = torch.Generator().manual_seed(1)

    def noise(*shape):
        return normalize(torch.randn(*shape, WIDTH, generator=draw), dim=-1)

    images = noise(count)
    texts = normalize(images + 0.4 * noise(count), dim=1)
    texts[list(HARD)] = noise(len(HARD))
    for first in COPIES[::2]:
        images[first + 1] = normalize(images[first] + 0.01 * noise(), dim=0)
        texts[first + 1] = normalize(texts[first] + 0.01 * noise(), dim=0)
    for sides, vague in (((images, texts), VAGUE_TEXTS), ((texts, images), VAGUE_IMAGES)):
        for first in vague:
            group = slice(first, first + 1 + MATES)
            common = noise()
            sides[0][group] = normalize(common + noise(1 + MATES), dim=1)
            sides[1][group] = normalize(sides[0][group] + 0.2 * noise(1 + MATES), dim=1)
            sides[1][first] = common  # says only what all of the group have in common
    return images, texts


@pytest.fixture(scope="module")
def connection(packed, tmp_path_factory):
    """Three epochs with features that stay, then the committed table beside the index."""
    count = count_samples(packed.index)
    images, texts = planted(count)
    section = {"name": "neuclip", "estimator": {"name": "queue", "num_pairs": 2 * count}}
    objective = build(section, feature_dim=WIDTH, num_samples=count)
    sample_statistics, step = SampleStatistics(count, World.single()), 0
    LAST_BATCH.clear()
    for epoch in range(3):
        order = torch.from_numpy(permutation(count, seed=2, epoch=epoch))
        for ids in order.split(BATCH):
            if len(ids) > 1:
                result = objective(images[ids], texts[ids], ids)
                step += 1
                objective.advance(step)
                sample_statistics.note(ids, result, step=step)
                LAST_BATCH.update(dict.fromkeys(ids.tolist(), ids.tolist()))

    def fill(workspace):
        sample_statistics.write(workspace.output / STATISTICS)
        return Outcome(ledger=make_ledger(1, 1, {}))

    root = tmp_path_factory.mktemp("run")
    identity = StageIdentity("train", 1, "run", {}, {}, str(root))
    commit_stage(identity, fill)
    with SampleIndex(packed.index).with_statistics(identity.uri).connect() as found:
        yield found


def query(kind):
    [found] = [
        block
        for block in re.findall(r"```sql\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
        if block.startswith(f"-- {kind}:")
    ]
    return found


def test_pairs_with_a_wrong_text_are_the_hard_ones(connection):
    rows = connection.sql(query("hard")).fetchall()
    assert {row[0] for row in rows[: len(HARD)]} == set(HARD)


def test_copies_come_first_and_each_knows_of_one_other(connection):
    alone = {n for n in COPIES if seen_alone(n, (n, n - 1 if n % 2 else n + 1))}
    assert len(alone) >= 8
    rows = connection.sql(query("copies")).fetchall()
    assert {row[0] for row in rows[: len(alone)]} == alone
    for row in rows[: len(alone)]:
        assert 0.4 < row[2] < 1.6  # the queue holds the other one to three times


def test_what_fits_its_neighbours_makes_false_negatives_on_one_side(connection):
    vague = dict.fromkeys(VAGUE_TEXTS, True) | dict.fromkeys(VAGUE_IMAGES, False)
    alone = {n: vague[n] for n in vague if seen_alone(n, range(n, n + 1 + MATES))}
    assert len(alone) >= 5
    assert set(alone.values()) == {True, False}
    rows = connection.sql(query("false negatives")).fetchall()
    first = [row for row in rows[: len(vague)] if row[0] in vague]
    assert rows[: len(first)] == first  # nothing else comes before them
    is_text = {row[0]: row[2] > row[3] for row in first}
    assert alone.items() <= is_text.items() <= vague.items()
