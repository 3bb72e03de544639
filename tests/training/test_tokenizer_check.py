"""What is known of a recipe's tokenizer before a model is built. Oracle: folders whose contents are written here."""

import json

import pytest
from made.tables import write_table
from towers.hub_folders import CLIP_WITH_WORDS, change, text_folder, tokenizer_folder
from towers.tiny import TINY
from training.runs import make_config

from neuclip.foundation.errors import ConfigError
from neuclip.journey import plan
from neuclip.recipe import load_recipe
from neuclip.tokens import build
from neuclip.tokens.priorities import shipped_tables
from neuclip.training.stage import TRAIN
from neuclip.training.tokenizer_check import check_tokenizer, table_inputs

SYNTAX = {"text_tokens": {"name": "syntax"}}


def check(config):
    check_tokenizer(config, config.model.files())


def words(folder, **changes):
    model = {"architecture": CLIP_WITH_WORDS, "tokenizer": str(tokenizer_folder(folder))}
    return make_config(model=model, **changes)


def test_a_tokenizer_without_a_table_is_refused_and_with_its_own_taken(tmp_path):
    with pytest.raises(
        ConfigError, match=r"train: text_tokens: syntax has no table .*tokens\.build"
    ):
        check(words(tmp_path / "words", **SYNTAX))
    for name in ("random", "block"):
        check(words(tmp_path / "words", text_tokens={"name": name}))
    table = tmp_path / "table.json"
    folder = str(tmp_path / "words")
    text, vocabulary = build._of_folder(tmp_path / "words")
    del text
    written = {
        **json.loads(shipped_tables()[0].read_bytes()),
        "vocabulary": folder,
    }
    from neuclip.tokens.priorities import vocabulary_sha256

    written["vocabulary_sha256"] = vocabulary_sha256(vocabulary)
    table.write_text(json.dumps(written))
    config = words(tmp_path / "words", text_tokens={"name": "syntax", "table": str(table)})
    check(config)
    key, before = config.keyed(), TRAIN.inputs(config)["table 0"]
    assert str(table) not in json.dumps(key)  # its content counts, not where it lies
    (tmp_path / "moved.json").write_bytes(table.read_bytes())
    moved = {"name": "syntax", "table": str(tmp_path / "moved.json")}
    assert set(table_inputs(words(tmp_path / "words", text_tokens=moved))) == {"table 0"}
    change(tmp_path, "table.json", vocabulary="another")
    assert TRAIN.inputs(config)["table 0"] != before


def test_a_table_of_another_vocabulary_is_refused(tmp_path):
    table = tmp_path / "table.json"
    table.write_bytes(shipped_tables()[1].read_bytes())
    config = make_config(text_tokens={"name": "syntax", "table": str(table)})
    with pytest.raises(ConfigError, match="is of the vocabulary smollm2"):
        check(config)
    check(make_config(**SYNTAX))


def test_a_context_without_room_beside_the_specials_is_refused(tmp_path):
    folder = tokenizer_folder(tmp_path / "words")
    special = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 3
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["single"] = [*special, *content["post_processor"]["single"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    model = {"architecture": CLIP_WITH_WORDS, "tokenizer": str(folder)}
    phases = [{"epochs": 1, "context_length": 16}, {"epochs": 2, "context_length": 5}]
    with pytest.raises(
        ConfigError, match=r"train\.phases\[1\]: context_length 5 .* 5 special tokens; give 6"
    ):
        check(make_config(model=model, phases=phases, epochs=3))


def test_a_context_beyond_the_towers_positions_is_refused(tmp_path):
    text = {"kind": "hugging_face", "folder": str(text_folder(tmp_path, "bert")), "weights": "new"}
    model = {"architecture": TINY, "text": text}
    with pytest.raises(
        ConfigError, match="context_length 90 is beyond the text tower's 80 positions"
    ):
        check(make_config(model=model, context_length=90))
    check(make_config(model=model, context_length=80))


def test_plan_refuses_what_training_would(tmp_path):
    table = write_table(tmp_path / "t.parquet", [{"url": "http://a.test/1.png", "caption": "a"}])
    changes = {
        "root": str(tmp_path / "lake"),
        "acquire.table": table,
        "train.model": {
            "architecture": CLIP_WITH_WORDS,
            "tokenizer": str(tokenizer_folder(tmp_path / "words")),
        },
        "train.phases": [{"epochs": 1, **SYNTAX}],
    }
    with pytest.raises(ConfigError, match=r"train\.phases\[0\]: text_tokens: syntax has no table"):
        plan(load_recipe("infra/recipes/clipa-b16-laion400m.yaml", changes | {"train.epochs": 1}))
