"""Which text a sample shows. Oracles: draws recorded before there were policies, closed forms, counts of many draws."""

import hashlib
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from neuclip.loading.policies import Other, PerCaption, PerSource, Same, ViewCaptions
from neuclip.loading.views import TextView, text_ids
from neuclip.loading.visits import MAIN, Visit

DRAWS = 40_000
TOLERANCE = 0.005


class Texts:
    """The texts of samples, by a function of source and sample, in the place of side files."""

    def __init__(self, of):
        self._of = of

    def texts(self, source, shard, row):
        return self._of(source, row)

    def first(self, shard, row):
        return next(
            ((found[0], source) for source in ("alt", "any") if (found := self._of(source, row))),
            ("", ""),
        )


def having(**texts):
    return Texts(lambda source, row: texts.get(source, []))


FIVE = having(alt=["the original text"], rewrite=[f"rewrite number {k}" for k in range(4)])
BOTH = having(alt=["the alt text"], vecap=["the fused text"])


def view(policy, name=MAIN, of=None):
    return TextView(policy, None, name, of)


def chosen(one, texts, *, samples=1, epochs=1, seed=7):
    return [
        one.choose(texts, "shard", sample, Visit(seed, epoch, sample))
        for epoch in range(epochs)
        for sample in range(samples)
    ]


def shares(captions, of=lambda caption: caption.source):
    return {key: n / len(captions) for key, n in Counter(map(of, captions)).items()}


def mix(p):
    return PerSource(weights={"alt": 1 - p, "vecap": p})


@pytest.mark.parametrize(
    ("weights", "name", "digest"),
    [
        ({"alt": 1, "rewrite": 1}, MAIN, "7ffc00ee81c1ccbd"),
        ({"alt": 1, "rewrite": 1}, "second", "14547e763174c3cf"),
        ({"alt": 3, "rewrite": 1}, MAIN, "34396cb809b2bdc9"),
        ({"alt": 0.5, "rewrite": 0.25, "vecap": 0.25}, MAIN, "9ea84b26fa3bd9be"),
        ({"rewrite": 2}, "second", "7947436fd5c5702e"),
    ],
)
def test_per_source_draws_what_was_drawn_before_there_were_other_policies(weights, name, digest):
    def of(source, row):
        count = {"alt": 1 + row % 2, "rewrite": row % 4, "vecap": row % 3 > 0}.get(source, 0)
        return [f"{source} text {k} of {row}" for k in range(count)]

    drawn = chosen(view(PerSource(weights=weights), name), Texts(of), samples=500, epochs=4)
    text = "\n".join(caption.text for caption in drawn)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_per_source_draws_each_source_with_its_weight(p):
    found = shares(chosen(view(mix(p)), BOTH, samples=DRAWS // 4, epochs=4))
    assert found["vecap"] == pytest.approx(p, abs=TOLERANCE)


def test_per_caption_draws_each_of_k_plus_1_texts_alike():
    drawn = chosen(view(PerCaption(sources=["rewrite"])), FIVE, samples=DRAWS // 4, epochs=4)
    found = shares(drawn, of=lambda caption: caption.text)
    assert len(found) == 5
    assert all(share == pytest.approx(0.2, abs=TOLERANCE) for share in found.values())


def test_per_caption_shows_nearly_all_of_five_texts_in_35_epochs():
    """5 (1 - (4/5)^35) = 4.998."""
    one, samples = view(PerCaption(sources=["rewrite"])), 400
    seen = [
        len({one.choose(FIVE, "s", sample, Visit(7, epoch, sample)).text for epoch in range(35)})
        for sample in range(samples)
    ]
    assert sum(seen) / samples == pytest.approx(4.998, abs=0.01)


def test_the_other_text_is_drawn_without_replacement():
    """Of two draws of five texts without replacement every ordered pair has the chance 1/20."""
    main = view(PerCaption(sources=["rewrite"]))
    other = view(Other(), "second", main)
    drawn = [
        (a.text, b.text)
        for a, b in zip(
            chosen(main, FIVE, samples=DRAWS), chosen(other, FIVE, samples=DRAWS), strict=True
        )
    ]
    found = shares(drawn, of=lambda pair: pair)
    assert len(found) == 20
    assert all(a != b for a, b in found)
    assert all(share == pytest.approx(1 / 20, abs=TOLERANCE) for share in found.values())


def test_the_other_of_two_sources_is_always_the_one_that_was_not_drawn():
    main = view(mix(0.3))
    one, two = (
        chosen(which, BOTH, samples=2000) for which in (main, view(Other(), "second", main))
    )
    assert all({a.source, b.source} == {"alt", "vecap"} for a, b in zip(one, two, strict=True))
    assert not any(caption.stands_in for caption in two)


def test_a_sample_with_one_text_shows_it_in_both_views():
    texts = having(alt=["only this"], rewrite=["only this"])
    main = view(PerSource(weights={"alt": 1, "rewrite": 1}))
    (two,) = chosen(view(Other(), "second", main), texts)
    assert (two.text, two.stands_in) == ("only this", True)


def test_a_chance_that_grows_keeps_every_visit_that_it_had():
    def drawn(p):
        captions = chosen(view(mix(p)), BOTH, samples=4000)
        return {place for place, caption in enumerate(captions) if caption.source == "vecap"}

    sets = [drawn(p) for p in (0, 0.2, 0.5, 0.8, 1)]
    assert all(smaller < larger for smaller, larger in pairwise(sets))
    assert not sets[0]
    assert len(sets[-1]) == 4000


@given(
    st.fixed_dictionaries({name: st.floats(0.01, 1) for name in ("alt", "rewrite", "vlm")}),
    st.sampled_from(["rewrite", "vlm"]),
    st.floats(0, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_a_source_that_grows_at_the_cost_of_alt_keeps_every_visit(weights, name, moved):
    texts = having(alt=["an alt"], rewrite=["a rewrite"], vlm=["a description"])
    grown = {**weights, name: weights[name] + moved * weights["alt"]}
    grown["alt"] = weights["alt"] * (1 - moved)
    before, after = (
        chosen(view(PerSource(weights=given)), texts, samples=60) for given in (weights, grown)
    )
    assert all(
        now.source == name for then, now in zip(before, after, strict=True) if then.source == name
    )


def test_the_order_in_a_recipe_changes_no_draw():
    """Recipes that differ in it alone have the same key."""
    texts = having(alt=["an alt"], rewrite=["a rewrite"], vlm=["a description"])
    one = PerSource(weights={"vlm": 1, "alt": 2, "rewrite": 3})
    two = PerSource(weights={"alt": 2, "rewrite": 3, "vlm": 1})
    assert chosen(view(one), texts, samples=500) == chosen(view(two), texts, samples=500)


@pytest.mark.parametrize(
    "off",
    [
        PerSource(weights={"alt": 1, "rewrite": 0}),
        PerSource(weights={"alt": 1, "rewrite": 0, "vecap": 0}),
        PerSource(schedule=[{"from_epoch": 1, "weights": {"alt": 2, "rewrite": 0}}]),
        PerCaption(sources=[]),
    ],
)
def test_weight_0_and_no_rewrites_are_the_alt_text(off):
    plain = chosen(view(PerSource()), FIVE, samples=200, epochs=3)
    assert chosen(view(off), FIVE, samples=200, epochs=3) == plain
    assert off.named() in (["alt"], [])


def test_p_1_is_vecap_wherever_it_is_there_and_alt_elsewhere():
    texts = Texts(lambda source, row: [f"{source} text"] if source == "alt" or row % 3 else [])
    drawn = chosen(view(mix(1)), texts, samples=300)
    assert [c.source for c in drawn] == ["vecap" if row % 3 else "alt" for row in range(300)]
    assert [c.stands_in for c in drawn] == [row % 3 == 0 for row in range(300)]


def test_weights_renormalise_over_the_sources_that_a_sample_has():
    policy = PerSource(weights={"alt": 1, "rewrite": 3, "vecap": 4})
    texts = having(alt=["the alt text"], rewrite=["the rewritten text"])
    found = shares(chosen(view(policy), texts, samples=DRAWS // 4, epochs=4))
    assert found["rewrite"] == pytest.approx(0.75, abs=TOLERANCE)
    only = chosen(view(policy), having(alt=["the alt text"]), samples=20)
    assert {caption.text for caption in only} == {"the alt text"}


@pytest.mark.parametrize("policy", [PerSource(weights={"x": 1}), PerCaption(sources=["x"])])
def test_a_sample_without_a_named_source_gives_its_first_text(policy):
    (found,) = chosen(view(policy), having(any=["of any source"]))
    assert (found.text, found.source, found.stands_in) == ("of any source", "any", True)
    (gone,) = chosen(view(policy), having())
    assert (gone.text, gone.source) == ("", "")


@pytest.mark.parametrize("short", ["", " ", "rewrite", " rewrite\n"])
@pytest.mark.parametrize(
    "policy", [PerSource(weights={"rewrite": 1}), PerCaption(sources=["rewrite"])]
)
def test_a_text_of_one_word_or_none_is_replaced_by_the_original(policy, short):
    texts = having(alt=["the original", "another alt"], rewrite=[short])
    drawn = chosen(view(policy), texts, samples=50)
    assert {(c.text, c.source, c.k) for c in drawn} == {("the original", "alt", 0)}
    assert any(c.stands_in for c in drawn)
    (alone,) = chosen(view(policy), having(rewrite=[short]))
    assert alone.text == short, "there is no original to stand in"


def test_an_original_of_one_word_stays():
    texts = having(alt=["rocket"], rewrite=["a drawn rocket", "moon"])
    drawn = chosen(view(PerCaption(sources=["rewrite"])), texts, samples=900)
    found = shares(drawn, of=lambda caption: caption.text)
    assert found["rocket"] == pytest.approx(2 / 3, abs=0.05)
    assert found["a drawn rocket"] == pytest.approx(1 / 3, abs=0.05)
    standing_in = shares(drawn, of=lambda caption: caption.stands_in)
    assert standing_in[True] == pytest.approx(1 / 3, abs=0.05)


def test_a_schedule_goes_by_the_epoch_of_the_visit():
    later = [
        {"from_epoch": epoch, "weights": {"alt": 1 - p, "vecap": p}}
        for epoch, p in ((2, 0.5), (3, 1))
    ]
    policy = PerSource(weights={"alt": 1}, schedule=later)
    for epoch, p in enumerate([0, 0, 0.5, 1, 1]):
        for sample in range(200):
            visit = Visit(7, epoch, sample)
            assert view(policy).choose(BOTH, "s", sample, visit) == view(mix(p)).choose(
                BOTH, "s", sample, visit
            )
    assert policy.named() == ["alt", "vecap"]


def test_draws_of_views_are_their_own_and_of_their_key_alone():
    policy = PerCaption(sources=["rewrite"])
    one, two = (chosen(view(policy, name), FIVE, samples=300) for name in (MAIN, "second"))
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 100
    again = [
        view(policy).choose(FIVE, "elsewhere", n, Visit(7, 0, n)) for n in reversed(range(300))
    ]
    assert again[::-1] == one


def test_a_second_view_is_the_first_one_s_text_edited():
    main = view(PerCaption(sources=["rewrite"]))
    edited = view(Same(edit="eda"), "edited", main)
    plain, changed = (chosen(one, FIVE, samples=400) for one in (main, edited))
    assert [(c.source, c.k) for c in changed] == [(c.source, c.k) for c in plain]
    differ = [a.text != b.text for a, b in zip(plain, changed, strict=True)]
    assert [c.is_edited for c in changed] == differ
    assert 100 < sum(differ) < 400
    assert changed == chosen(edited, FIVE, samples=400)


def test_every_policy_takes_an_edit_and_draws_the_same_beneath_it():
    main = view(mix(0.5))
    for policy, of in ((mix(0.5), None), (PerCaption(sources=["vecap"]), None), (Other(), main)):
        with_edit = policy.model_copy(update={"edit": "eda"})
        plain, edited = (
            chosen(view(one, "v", of), BOTH, samples=100) for one in (policy, with_edit)
        )
        assert [c.source for c in edited] == [c.source for c in plain]
        assert edited != plain


def test_an_edited_text_has_a_number_of_its_own():
    main = view(PerSource())
    texts = having(alt=["one two three four five"])
    drawn = chosen(view(Same(edit="eda"), "edited", main), texts, epochs=50)
    (plain,) = set(text_ids(chosen(main, texts), [0]).tolist())
    numbers = text_ids(drawn, [0] * 50).tolist()
    assert [n == plain for n in numbers] == [not c.is_edited for c in drawn]
    assert len(set(numbers)) == 2


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"weights": {"alt": 1}}, "kind"),
        ({"kind": "per_sauce"}, "per_source"),
        ({"kind": "per_source", "weights": {"alt": 0}}, "no source a weight above 0"),
        ({"kind": "per_source", "weights": {"alt": -1, "x": 1}}, "greater than or equal to 0"),
        (
            {
                "kind": "per_source",
                "schedule": [{"from_epoch": n, "weights": {"alt": 1}} for n in (4, 2)],
            },
            r"\[4, 2\]",
        ),
        ({"kind": "per_source", "schedule": [{"from_epoch": 0, "weights": {}}]}, "from_epoch"),
        ({"kind": "per_caption", "sources": ["x", "x"]}, "twice"),
        ({"kind": "same", "edit": "shuffle"}, "eda"),
    ],
)
def test_policies_that_make_no_sense_are_refused(policy, says):
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(ViewCaptions).validate_python(policy)


def test_what_is_asked_is_said_in_words():
    said = PerSource(
        weights={"vecap": 1, "alt": 3}, schedule=[{"from_epoch": 5, "weights": {"vecap": 2}}]
    )
    assert said.describe() == "0.75 alt + 0.25 vecap, from epoch 5 1 vecap"
    assert "rewrite" in PerCaption(sources=["rewrite"]).describe()
    assert Same(view="second", edit="eda").describe() == "the text of second; edited by EDA"
