"""Texts that a model reads the beginning of. Oracles: word counts, and the tokenizer's own library."""

import json
from dataclasses import replace

import pytest
from made.text_encoders import llama
from towers.hub_folders import SMALL_SIGLIP, tokenizer_folder
from towers.tiny import COLOURS, TINY, picture, tiny_towers, write_tar
from transformers import AutoTokenizer

from neuclip.evaluation.score import score_set
from neuclip.loading.evaluation_sets import read_set
from neuclip.text_encoder.config import TextEncoderConfig
from neuclip.text_encoder.encoder import describe_encoder
from neuclip.towers.config import ModelConfig
from neuclip.towers.cut_texts import count_cut
from neuclip.towers.model import create_towers
from neuclip.towers.with_encoder import with_encoder

FITS = " ".join(["cat"] * 14)
"""With both ends 16 tokens, all that TINY reads."""


def test_open_clips_tokenizer_cuts_what_has_no_room():
    towers = tiny_towers()
    assert count_cut(towers, [FITS, "a cat", ""]) == 0
    assert count_cut(towers, [f"{FITS} cat", FITS, f"{FITS} " * 99]) == 2


def test_a_tokenizer_of_a_folder_is_asked_as_well(tmp_path):
    folder = tokenizer_folder(tmp_path / "words")
    towers = create_towers(ModelConfig(architecture=SMALL_SIGLIP, tokenizer=str(folder)), seed=1)
    inner = AutoTokenizer.from_pretrained(folder)
    texts = ["a photo of a cat " * n for n in range(1, 9)]
    expected = sum(len(inner(text)["input_ids"]) > 16 for text in texts)
    assert 0 < expected < 8
    assert count_cut(towers, texts) == expected


def test_an_encoder_counts_by_its_budget(tmp_path):
    folder = llama(tmp_path / "model")
    config = TextEncoderConfig(folder=str(folder), precision="float32", max_tokens=12)
    record = describe_encoder(str(folder), config)
    model = ModelConfig(architecture=TINY, text={"kind": "features", "width": 64})
    towers = create_towers(model, seed=1, beside={"encoder.json": record.to_bytes()})
    towers = with_encoder(towers, str(folder))
    inner = AutoTokenizer.from_pretrained(folder)
    texts = ["a red circle " * n for n in range(1, 9)]
    expected = sum(len(inner(text)["input_ids"]) > 12 for text in texts)
    assert 0 < expected < 8
    assert count_cut(towers, texts) == expected


def test_a_tokenizer_that_does_not_say_has_none():
    towers = replace(tiny_towers(), tokenize=lambda texts: None)
    assert count_cut(towers, [FITS * 9]) == 0


@pytest.mark.parametrize("more", [0, 3])
def test_a_long_text_set_is_told_with_the_texts_that_were_cut(tmp_path, more):
    members = []
    for n, colour in enumerate(COLOURS):
        text = f"{colour} {FITS}" if n < more else f"a photo of {colour}"
        members += [(f"s{n}.png", picture(colour, seed=n)), (f"s{n}.txt", text.encode())]
    write_tar(tmp_path / "wds_long" / "test" / "0.tar", members)
    (tmp_path / "wds_long" / "test" / "nshards.txt").write_text("1")
    (tmp_path / "wds_long" / "dataset_type.txt").write_text("retrieval")
    suite = read_set(str(tmp_path / "wds_long"))
    row, _, _ = score_set(tiny_towers(), suite, batch_size=8, model_sha256="x")
    assert json.loads(row.model_dump_json())["cut_texts"] == more
