"""Oracle: what the writer was asked, counted by itself, and texts made by hand."""

from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made import packed
from made.acquired import Pair, png
from made.writers import MODEL, Writer, section, writings

from neuclip.captions.erase import find_texts
from neuclip.curate.config import CurateConfig
from neuclip.curate.rules import CaptionCharacters
from neuclip.foundation.errors import BudgetError, DataError
from neuclip.generation.config import Price
from neuclip.stages.loaded import Loaded
from neuclip.stages.manifest import read_manifest

PAIRS = [Pair(n, {"alt": [f"the number {n} is drawn in Paris by Anna"]}) for n in range(12)]
REWRITE = {"kind": "rewrite", "texts": 2, "examples": ["plain"]}
VECAP = [{"kind": "describe"}, {"kind": "fuse"}]


def says(texts, question):
    """Rewrite, describe or fuse, as the question has one text, none or two."""
    if question.image is not None:
        return f"noise of {len(question.image)} bytes"
    return f"seen by somebody: {' and '.join(texts)}"


def gather(tmp_path, config, writer, *, key="key", partitions=None, min_chars=5, **more):
    _, _, caption = packed.gather(
        tmp_path,
        partitions or [PAIRS[:7], PAIRS[7:]],
        curate=CurateConfig(rules=[CaptionCharacters(min=min_chars)]),
        caption=config,
        key=key,
        writings=writings(config, writer, **more),
    )
    return caption


def texts_of(caption, source):
    """Return (uid, k) -> text and status."""
    found = {}
    for row in pq.read_table(f"{caption}/parts.parquet").to_pylist():
        if row["source"] == source:
            path = Path(caption).parent / "parts" / row["part"] / "texts.parquet"
            for text in pq.read_table(path).to_pylist():
                found[text["uid"], text["k"]] = (text["text"], text["status"])
    return found


def test_a_rewrite_of_every_kept_pair_and_k(tmp_path):
    writer = Writer(says)
    caption = gather(tmp_path, section(REWRITE), writer)
    assert texts_of(caption, "rewrite") == {
        (pair.uid, k): (f"seen by somebody: {pair.captions['alt'][0]}", "ok")
        for pair in PAIRS
        for k in range(2)
    }
    assert len(writer.asked) == len(set(writer.asked)) == 24
    told = read_manifest(caption).summary
    assert told["sources"]["rewrite"] == {"pairs": 12, "texts": 24}
    assert told["generated"]["rewrite"]["prompt_tokens"] == 240


def test_steps_feed_each_other_whatever_their_order(tmp_path):
    caption = gather(tmp_path, section(*reversed(VECAP)), Writer(says))
    for pair in PAIRS:
        seen = f"noise of {len(png(pair.number, (24, 24)))} bytes"
        assert texts_of(caption, "vlm")[pair.uid, 0] == (seen, "ok")
        fused = f"seen by somebody: {pair.captions['alt'][0]} and {seen}"
        assert texts_of(caption, "vecap")[pair.uid, 0] == (fused, "ok")


@pytest.mark.parametrize("backwards", [False, True])
def test_a_stage_that_was_stopped_asks_for_the_rest_alone(tmp_path, backwards):
    config = section(REWRITE)
    whole = texts_of(gather(tmp_path / "whole", config, Writer(says)), "rewrite")
    asked = []
    for stop in (3, 0, 9, None):
        writer = Writer(says, stop_after=stop, backwards=backwards)
        try:
            caption = gather(tmp_path / "cut", config, writer)
        except KeyboardInterrupt:
            assert stop is not None
        asked += writer.asked
    assert len(asked) == len(set(asked)) == 24
    assert texts_of(caption, "rewrite") == whole


def test_more_rewrites_ask_for_the_new_ones_alone_and_other_kept_pairs_for_none(tmp_path):
    first, second, third = Writer(says), Writer(says), Writer(says)
    gather(tmp_path, section(REWRITE), first, key="one")
    more = section({**REWRITE, "texts": 3})
    gather(tmp_path, more, second, key="two")
    assert len(second.asked) == 12
    assert not set(first.asked) & set(second.asked)
    few = gather(tmp_path, more, third, key="three", min_chars=39)
    assert not third.asked
    assert 0 < len(texts_of(few, "rewrite")) < 36


@pytest.mark.parametrize(
    ("change", "asks"),
    [
        ({"instruction": "Say it anew."}, True),
        ({"sampling": {"temperature": 0.5}}, True),
        ({"shown": 2}, True),
        ({"checks": {"max_words": 7}}, False),
        ({"max_bad": 1.0}, False),
    ],
)
def test_what_a_question_is_made_of_asks_anew_and_what_judges_it_does_not(tmp_path, change, asks):
    gather(tmp_path, section(REWRITE), Writer(says), key="one")
    writer = Writer(says)
    caption = gather(tmp_path, section({"max_bad": 1.0, **REWRITE, **change}), writer, key="two")
    assert len(writer.asked) == (24 if asks else 0)
    statuses = {status for _, status in texts_of(caption, "rewrite").values()}
    assert statuses == ({"too_long"} if "checks" in change else {"ok"})


def test_answers_of_no_use_do_not_train_and_are_counted(tmp_path):
    refused = PAIRS[3].captions["alt"][0]

    def some(texts, question):
        return "I cannot help with that." if refused in texts else says(texts, question)

    caption = gather(tmp_path, section({**REWRITE, "texts": 1}), Writer(some))
    assert texts_of(caption, "rewrite")[PAIRS[3].uid, 0] == ("I cannot help with that.", "refused")
    told = read_manifest(caption).summary["sources"]["rewrite"]
    assert told == {"pairs": 11, "texts": 11, "refused": 1}


def test_too_many_answers_of_no_use_end_the_stage_with_the_reason_and_cost_nothing_twice(tmp_path):
    writer = Writer(lambda texts, question: texts[0])
    with pytest.raises(DataError, match=r"7 of 7 answers for the source 'rewrite'.*are echo"):
        gather(tmp_path, section({**REWRITE, "texts": 1}), writer)
    again = Writer(says)
    with pytest.raises(DataError, match="are echo"):
        gather(tmp_path, section({**REWRITE, "texts": 1}), again)
    assert not again.asked


def test_a_budget_ends_the_stage_before_it_is_passed_and_a_greater_one_goes_on(tmp_path):
    priced = MODEL.model_copy(update={"price": Price(prompt=1e6, completion=2e6)})
    step = {**REWRITE, "sampling": {"max_tokens": 8}}
    asked = []
    spent = []
    for budget in (0, 450, 450, 600, None):
        writer = Writer(says)
        config = section(step, model=priced, budget={"money": budget})
        ends = nullcontext() if budget is None else pytest.raises(BudgetError, match="is used up")
        with ends:
            caption = gather(tmp_path, config, writer)
        asked += writer.asked
        spent.append(len(asked) * 20)
        assert budget is None or spent[-1] <= budget
    assert len(asked) == len(set(asked)) == 24
    assert len(texts_of(caption, "rewrite")) == 24


def test_an_answer_given_to_many_questions_is_no_answer(tmp_path):
    def dull(texts, question):
        number = int(texts[0].split()[2])
        return "a picture of something" if number < 10 else says(texts, question)

    step = {**REWRITE, "texts": 1, "max_bad": 1.0}
    caption = gather(tmp_path, section(step), Writer(dull), partitions=[PAIRS])
    statuses = [texts_of(caption, "rewrite")[pair.uid, 0][1] for pair in PAIRS]
    assert statuses == ["repeated"] * 10 + ["ok"] * 2


class Longer:
    """Finds the longer text nearer to an image; one image it cannot read."""

    model = "by length"

    def cosines(self, images, texts):
        lengths = [len(text) / 1000 for text in texts]
        unread = png(PAIRS[5].number, (24, 24))
        return [None if image == unread else n for image, n in zip(images, lengths, strict=True)]


@pytest.mark.parametrize(("margin", "low"), [(0.0, True), (0.02, False)])
def test_an_answer_that_fits_worse_than_the_alt_text_is_told(tmp_path, margin, low):
    """Every second answer is some ten letters shorter than the alt text."""

    def short(texts, question):
        return texts[0][:30] if int(texts[0].split()[2]) % 2 else says(texts, question)

    config = section({**REWRITE, "texts": 1, "max_bad": 1.0})
    similarity = Loaded(Longer)
    caption = gather(tmp_path, config, Writer(short), similarity=similarity, margin=margin)
    found = texts_of(caption, "rewrite")
    for pair in PAIRS:
        is_low = low and pair.number % 2 == 1 and pair.number != 5
        assert found[pair.uid, 0][1] == ("low_similarity" if is_low else "ok")


def test_a_takedown_finds_what_models_wrote_and_the_answers_in_the_journal(tmp_path):
    caption = gather(tmp_path, section(REWRITE), Writer(says))
    stage, gone = str(Path(caption).parent), PAIRS[3].uid
    erasures = find_texts(stage, {gone})
    assert sorted(Path(uri).parent.name for uri in erasures) == ["answers", "parts", "parts"]
    for erase in erasures.values():
        erase(1, tmp_path)
    assert {Path(uri).parent.name for uri in find_texts(stage, {gone})} == {"parts"}  # rows stay
    left = b"".join(path.read_bytes() for path in Path(stage).rglob("*.jsonl"))
    assert gone.encode() not in left
    assert PAIRS[4].uid.encode() in left
    texts = texts_of(caption, "rewrite")
    assert texts[gone, 0] == texts[gone, 1] == (None, None)
    assert texts[PAIRS[4].uid, 0][1] == "ok"
