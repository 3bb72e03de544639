"""Oracle: the recipe's promises about the list of scores."""

import pytest
from pydantic import TypeAdapter, ValidationError

from neuclip.curate.scores import ClipScore, Embedding, Language, PHash, ScoreConfig, source_of

SCORES = TypeAdapter(list[ScoreConfig])


def test_a_score_is_known_by_its_kind_and_named_by_its_kind_unless_told():
    found = SCORES.validate_python(
        [
            {"kind": "phash"},
            {"kind": "language", "name": "lang"},
            {"kind": "clip_score", "model": "m"},
            {"kind": "embedding", "model": "m", "name": "b32"},
            {"kind": "tmars", "model": "m"},
        ]
    )
    assert [type(score) for score in found[:4]] == [PHash, Language, ClipScore, Embedding]
    assert [score.columns() for score in found] == [
        ("phash",),
        ("lang", "lang_probability"),
        ("clip_score",),
        (),
        ("tmars", "tmars_text_share"),
    ]


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a b", "a;drop", "x" * 41, "_a", "é"])
def test_a_name_that_is_no_plain_sql_identifier_is_refused(name):
    with pytest.raises(ValidationError, match="name"):
        SCORES.validate_python([{"kind": "phash", "name": name}])


def test_an_unknown_kind_and_a_missing_model_are_refused():
    with pytest.raises(ValidationError, match="phash"):
        SCORES.validate_python([{"kind": "phsh"}])
    with pytest.raises(ValidationError, match="model"):
        SCORES.validate_python([{"kind": "clip_score"}])


def test_scores_of_texts_alone_have_a_source():
    every = SCORES.validate_python(
        [
            {"kind": "language"},
            {"kind": "clip_score", "model": "m", "source": "rewrite"},
            {"kind": "tmars", "model": "m", "source": "rewrite"},
            {"kind": "phash"},
            {"kind": "embedding", "model": "m"},
        ]
    )
    assert [source_of(score) for score in every] == ["alt", "rewrite", "rewrite", None, None]
    assert every[1].keyed()["source"] == "rewrite"
    for kind in ("phash", "embedding"):
        with pytest.raises(ValidationError, match="source"):
            SCORES.validate_python([{"kind": kind, "model": "m", "source": "alt"}])


def test_where_a_model_lies_and_how_fast_it_is_asked_are_not_in_the_settings():
    one = ClipScore(kind="clip_score", model="here", batch_size=3)
    other = ClipScore(kind="clip_score", model="s3://there/model")
    assert one.keyed() == other.keyed()
    assert one.keyed() != ClipScore(kind="clip_score", model="here", precision="fp32").keyed()
