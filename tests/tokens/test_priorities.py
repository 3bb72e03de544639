"""Tables of priorities. Oracles: the tagger itself, the vocabularies' own sizes, tables written by hand."""

import hashlib
import json
import subprocess
import sys

import open_clip
import pytest
from made.language_model import language_model
from towers.hub_folders import tokenizer_folder

from neuclip.foundation.errors import ConfigError
from neuclip.tokens import build
from neuclip.tokens.priorities import priorities_of, read_table, shipped_tables


def clip_vocabulary():
    return open_clip.tokenizer.SimpleTokenizer().encoder


def built(*arguments):
    """The command as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", "neuclip.tokens.build", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_table_of_clip_is_what_the_tagger_says(tmp_path):
    """The file that is shipped is made again, byte for byte."""
    run = built("--output", tmp_path / "clip_bpe.json")
    assert run.returncode == 0, run.stderr
    [shipped] = [file for file in shipped_tables() if file.name == "clip_bpe.json"]
    assert (tmp_path / "clip_bpe.json").read_bytes() == shipped.read_bytes()


@pytest.mark.parametrize(
    ("word", "priority"),
    [
        ("cat</w>", 1),
        ("cats</w>", 1),
        ("red</w>", 2),
        ("beautiful</w>", 2),
        ("sitting</w>", 3),
        ("is</w>", 3),
        ("the</w>", 4),
        ("of</w>", 4),
        ("!</w>", 4),
        ("2</w>", 4),
        ("<start_of_text>", 4),
        ("<end_of_text>", 4),
    ],
)
def test_words_by_hand(word, priority):
    vocabulary = clip_vocabulary()
    assert priorities_of(vocabulary, None)[vocabulary[word]] == priority


def test_every_shipped_table_says_what_it_is_of():
    tables = {file.name: read_table(file.read_bytes(), file.name) for file in shipped_tables()}
    assert sorted(tables) == ["clip_bpe.json", "smollm2.json"]
    assert [len(tables[name].priorities) for name in sorted(tables)] == [49408, 49152]
    assert all("MIT" in table.licence and "textblob" in table.tagger for table in tables.values())


@pytest.mark.slow
def test_the_second_table_is_of_a_language_models_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    vocabulary = AutoTokenizer.from_pretrained(language_model(tmp_path)).get_vocab()
    priorities = priorities_of(vocabulary, None)
    assert [priorities[vocabulary[word]] for word in ("Ġcat", "Ġred", "Ġsitting", "Ġthe")] == [
        1,
        2,
        3,
        4,
    ]


def test_a_table_for_a_tokenizer_in_a_folder(tmp_path):
    folder = tokenizer_folder(tmp_path / "words")
    with pytest.raises(
        ConfigError, match=r"no table for .* clip_bpe, smollm2.*tokens\.build --tokenizer"
    ):
        priorities_of(vocabulary_of(folder), None)
    table = tmp_path / "table.json"
    run = built("--tokenizer", folder, "--output", table)
    assert run.returncode == 0, run.stderr
    assert "of priority 1" in run.stdout
    vocabulary = vocabulary_of(folder)
    priorities = priorities_of(vocabulary, str(table))
    found = {word: int(priorities[number]) for word, number in vocabulary.items()}
    assert found["photo"] == found["thing"] == 1
    assert found["red"] == 2
    assert found["of"] == found["[CLS]"] == 4
    with pytest.raises(ConfigError, match="is of the vocabulary words"):
        priorities_of(clip_vocabulary(), str(table))


def vocabulary_of(folder):
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]


@pytest.mark.parametrize("damage", ["digit", "letter", "field", "text"])
def test_a_damaged_table_is_refused(damage):
    file = shipped_tables()[0]
    content = json.loads(file.read_bytes())
    digits = content["priorities"]
    if damage == "digit":
        content["priorities"] = ("1" if digits[0] != "1" else "2") + digits[1:]
    if damage == "letter":
        content["priorities"] = "x" + digits[1:]
        content["priorities_sha256"] = hashlib.sha256(content["priorities"].encode()).hexdigest()
    if damage == "field":
        del content["vocabulary_sha256"]
    written = b"not JSON" if damage == "text" else json.dumps(content).encode()
    with pytest.raises(ConfigError, match=r"there\.json is (damaged|no table).*tokens\.build"):
        read_table(written, "there.json")


def test_no_tokenizer_no_table(tmp_path, capsys):
    assert build.main(["--tokenizer", str(tmp_path), "--output", str(tmp_path / "x.json")]) != 0
    assert "tokenizer.json is not there" in capsys.readouterr().err
