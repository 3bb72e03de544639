"""What a recipe may say of models that write, and what of it counts."""

import pytest
from pydantic import ValidationError

from neuclip.captions.config import CaptionConfig
from neuclip.foundation.config import reserved_in

ENDPOINT = {"kind": "endpoint", "model": "m", "address": "http://127.0.0.1:1/v1"}
MODELS = {"llm": ENDPOINT}
REWRITE = {"kind": "rewrite", "model": "llm"}


def section(**fields):
    return CaptionConfig.model_validate({"models": MODELS, "generate": [REWRITE], **fields})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"generate": [{**REWRITE, "model": "lm"}]}, r"'lm', which is not among.*mean 'llm'"),
        ({"models": {}}, "which is not among caption.models: none"),
        ({"generate": [REWRITE, REWRITE]}, "'rewrite' of generate.1 is there already"),
        ({"generate": [{**REWRITE, "source": "alt"}]}, "'alt' of generate.0 is there already"),
        ({"generate": [{**REWRITE, "of": "rewrite"}]}, "made of each other: rewrite -> rewrite"),
        (
            {
                "generate": [
                    {**REWRITE, "of": "b", "source": "a"},
                    {**REWRITE, "of": "a", "source": "b"},
                ]
            },
            "made of each other: [ab] -> [ab] -> [ab]",
        ),
        (
            {
                "derive": [{"kind": "sentences", "of": "rewrite", "source": "parts"}],
                "generate": [{**REWRITE, "of": "parts"}],
            },
            "made of each other",
        ),
        ({"generate": [{**REWRITE, "examples": []}]}, "at least 1 item"),
        ({"generate": [{**REWRITE, "examples": ["poem"]}]}, "'plain', 'vivid', 'brief' or"),
        ({"generate": [{**REWRITE, "texts": 0}]}, "greater than or equal to 1"),
        ({"generate": [{"kind": "paint", "model": "llm"}]}, "'rewrite', 'describe', 'fuse'"),
        ({"generate": [{**REWRITE, "checks": {"min_words": 9, "max_words": 3}}]}, "no answer"),
        ({"budget": {"money": -1}}, "greater than or equal to 0"),
        ({"models": {"llm": {**ENDPOINT, "kind": "server"}}}, "'endpoint', 'hugging_face'"),
        ({"models": {"llm": {**ENDPOINT, "concurrency": 0}}}, "greater than or equal to 1"),
        ({"models": {"Not A Name": ENDPOINT}}, "should match pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_recipe(fields, says):
    with pytest.raises(ValidationError, match=says):
        section(**fields)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"address": "http://other.example/v1"}, False),
        ({"api_key": "SOME_KEY"}, False),
        ({"concurrency": 4, "tries": 2, "deadline_s": 5, "patience_s": 9}, False),
        ({"price": {"prompt": 1, "completion": 2}}, False),
        ({"model": "another"}, True),
        ({"revision": "2"}, True),
        ({"body": {"top_k": 5}}, True),
        ({"image_px": 64}, True),
    ],
)
def test_where_a_model_runs_does_not_count_and_what_it_is_does(changes, counts):
    changed = section(models={"llm": {**ENDPOINT, **changes}})
    assert (changed.keyed() != section().keyed()) == counts


def test_a_section_without_models_has_the_key_that_it_had():
    assert set(CaptionConfig().keyed()) == {"derive", "max_per_source"}


def test_address_and_key_name_are_for_a_recipes_file_alone():
    content = {"models": {"llm": {**ENDPOINT, "api_key": "SOME_KEY"}}}
    assert set(reserved_in(CaptionConfig, content)) == {"models.llm.address", "models.llm.api_key"}


def test_sources_are_made_after_those_that_they_read():
    config = section(
        derive=[{"kind": "sentences", "of": "vecap", "source": "parts"}],
        generate=[
            {"kind": "fuse", "model": "llm"},
            {"kind": "describe", "model": "llm"},
            {**REWRITE, "of": "parts"},
        ],
    )
    assert [one.source for one in config.made] == ["vlm", "vecap", "parts", "rewrite"]
