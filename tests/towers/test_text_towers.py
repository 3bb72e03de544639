"""Text towers of a local Hugging Face folder. Oracles: transformers on that folder, open_clip on what is saved."""

import json

import open_clip
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from towers.hub_folders import CAPTIONS, change, text_folder, tokenizer_folder
from towers.tiny import TINY

from neuclip.foundation.errors import ConfigError
from neuclip.towers.config import ModelConfig, with_places
from neuclip.towers.files import MODEL_FILES
from neuclip.towers.folder import load_towers, save_towers
from neuclip.towers.hugging_face_text import TYPES
from neuclip.towers.model import create_towers


def recipe(folder, architecture=TINY, **text):
    kind = {"kind": "hugging_face", "folder": str(folder)}
    return ModelConfig(architecture=architecture, text={**kind, **text})


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return text_folder(tmp_path_factory.mktemp("bert"), weights=True)


@pytest.mark.parametrize("model_type", TYPES)
def test_its_states_are_those_of_the_library_and_its_weights_the_folders(tmp_path, model_type):
    """Oracle: AutoModel and AutoTokenizer on the folder."""
    from transformers import AutoModel, AutoTokenizer

    folder = text_folder(tmp_path, model_type, weights=True)
    towers = create_towers(recipe(folder), seed=3)
    towers.model.eval()
    tokens = towers.tokenize(CAPTIONS)
    read = AutoTokenizer.from_pretrained(folder)(
        CAPTIONS, max_length=16, padding="max_length", truncation=True, return_tensors="pt"
    )
    assert torch.equal(tokens, read.input_ids)
    theirs = AutoModel.from_pretrained(folder).eval()
    theirs = theirs.encoder if theirs.config.is_encoder_decoder else theirs
    with torch.no_grad():
        raw, states = towers.text_states(tokens)
        mask = (tokens != 0).long()
        expected = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
        mean = (expected * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        assert torch.equal(states, expected)
        torch.testing.assert_close(raw, towers.model.text.proj(mean), rtol=0, atol=1e-6)
        assert torch.equal(raw, towers.encode_text(tokens))


@pytest.mark.parametrize("projection", ["linear", "mlp"])
@pytest.mark.parametrize("pooling", ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
def test_open_clip_reads_the_folder_from_inside_it(
    bert, tmp_path, monkeypatch, pooling, projection
):
    """Oracle: open_clip, as the model card says."""
    towers = create_towers(recipe(bert, pooling=pooling, projection=projection), seed=3)
    save_towers(towers, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= set(MODEL_FILES)
    towers.model.eval()
    loaded = load_towers(tmp_path)
    monkeypatch.chdir(tmp_path)
    model, _, _ = open_clip.create_model_and_transforms("local-dir:.")
    model.eval()
    tokens = open_clip.get_tokenizer("local-dir:.")(CAPTIONS)
    assert torch.equal(towers.tokenize(CAPTIONS), tokens)
    assert towers.text.exports == {"open_clip_inside"}
    with torch.no_grad():
        expected = model.encode_text(tokens)
        for mine in (towers, loaded):
            assert torch.equal(mine.encode_text(tokens), expected)


def test_save_load_save_gives_the_same_bytes(bert, tmp_path):
    save_towers(create_towers(recipe(bert), seed=3), tmp_path / "a")
    save_towers(load_towers(tmp_path / "a"), tmp_path / "b")
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in "ab")
    assert one == other
    config = json.loads(one["open_clip_config.json"])["model_cfg"]["text_cfg"]
    assert (config["hf_model_name"], config["hf_tokenizer_name"]) == (".", ".")


def test_new_weights_are_a_function_of_the_seed(bert):
    one, same, other, given = (
        create_towers(recipe(bert, weights=weights), seed=seed).model.state_dict()
        for seed, weights in ((1, "new"), (1, "new"), (2, "new"), (1, "folder"))
    )
    name = "text.transformer.encoder.layer.0.output.dense.weight"
    saved = load_file(bert / "model.safetensors")
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one[name], other[name])
    assert torch.equal(given[name], saved["encoder.layer.0.output.dense.weight"])
    assert torch.equal(given["visual.proj"], one["visual.proj"])


def test_half_precision_weights_are_trained_in_whole_precision(bert, tmp_path):
    folder = text_folder(tmp_path, weights=True)
    half = {n: x.bfloat16() for n, x in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder, "config.json", torch_dtype="bfloat16", dtype="bfloat16")
    towers = create_towers(recipe(folder), seed=3)
    assert {p.dtype for p in towers.model.parameters()} == {torch.float32}
    assert "dtype" not in json.loads(towers.files["config.json"])


def test_weights_in_several_files_are_read(bert, tmp_path):
    folder = text_folder(tmp_path)
    whole = load_file(bert / "model.safetensors")
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({n: whole[n] for n in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    one, other = (create_towers(recipe(f), seed=3).model.state_dict() for f in (bert, folder))
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert recipe(folder).inputs() != recipe(bert).inputs()
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="does not list files beside it"):
        recipe(folder).files()


def test_the_key_knows_what_counts_of_the_folder(bert, tmp_path):
    copy = text_folder(tmp_path, weights=True)
    before = recipe(copy).inputs()
    assert before == recipe(bert).inputs()
    assert recipe(copy).keyed() == recipe(bert).keyed()
    assert "folder" not in recipe(copy).keyed()["text"]
    assert recipe(copy, weights="new").inputs() == recipe(bert, weights="new").inputs() != before
    change(copy, "config.json", hidden_dropout_prob=0.3)
    assert recipe(copy).inputs() != before


def test_a_committed_section_is_read_again_from_the_model_folder(bert, tmp_path):
    save_towers(create_towers(recipe(bert, weights="new"), seed=3), tmp_path)
    again = ModelConfig.model_validate(
        with_places(recipe(bert, weights="new").keyed(), str(tmp_path))
    )
    assert again.keyed() == recipe(bert, weights="new").keyed()
    assert again.model_cfg() == recipe(bert).model_cfg()


def test_another_tokenizer_may_be_given(bert, tmp_path):
    (tmp_path / "only text").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "only text" / name).write_bytes((bert / name).read_bytes())
    with pytest.raises(ConfigError, match=r"no tokenizer\.json; give train\.model\.tokenizer"):
        recipe(tmp_path / "only text").files()
    words = tokenizer_folder(tmp_path / "words", captions=["other words"])
    text = {"kind": "hugging_face", "folder": str(tmp_path / "only text")}
    config = ModelConfig(architecture=TINY, tokenizer=str(words), text=text)
    assert (
        create_towers(config, seed=0).files["tokenizer.json"]
        == (words / "tokenizer.json").read_bytes()
    )


BAD_CONFIGS = [
    ({"model_type": "llama"}, "model_type 'llama'; open_clip builds"),
    ({"auto_map": {"AutoModel": "modeling.Model"}}, "auto_map.*no such program is run"),
    ({"pad_token_id": None}, "no pad_token_id"),
    ({"pad_token_id": 3}, "pads with 0.*masks pad_token_id 3"),
    ({"quantization_config": {"bits": 4}}, "quantization_config.*hub"),
    ({"_attn_implementation": "org/kernels"}, "_attn_implementation.*hub"),
    ({"max_position_embeddings": 8}, r"positions; set train\.model\.text\.context_length to 8"),
    ({"vocab_size": 5}, "reads ids below its vocab_size 5"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_CONFIGS)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, fields, message):
    change(text_folder(tmp_path), "config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        create_towers(recipe(tmp_path, weights="new"), seed=0)


def test_a_folder_without_configuration_or_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json.*train\.model\.text\.folder"):
        recipe(tmp_path, weights="new").files()
    text_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"no model\.safetensors\. Save"):
        recipe(tmp_path).files()


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exit, (1,))

    torch.save({"a": Trap()}, text_folder(tmp_path) / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin is a pickle, which is never opened"):
        create_towers(recipe(tmp_path), seed=0)
    create_towers(recipe(tmp_path, weights="new"), seed=0)


def test_weights_that_do_not_fill_the_tower_are_refused(bert, tmp_path):
    """Else the library would fill the rest with random numbers and only warn."""
    folder = text_folder(tmp_path, weights=True)
    some = dict(list(load_file(bert / "model.safetensors").items())[:6])
    save_file(some, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack .* and [0-9]+ others of the tower"):
        create_towers(recipe(folder), seed=0)


def test_a_length_beyond_the_positions_of_roberta_is_refused(tmp_path):
    """Its positions are counted from the one after padding's: 80 of them are 79 tokens."""
    folder = text_folder(tmp_path, "roberta")
    towers = create_towers(recipe(folder, weights="new", context_length=79), seed=0)
    assert towers.encode_text(towers.tokenize(["a photo " * 99])).shape == (1, 32)
    with pytest.raises(ConfigError, match="80 tokens are longer than the text tower's 79"):
        create_towers(recipe(folder, weights="new", context_length=80), seed=0)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ValidationError, match="hugging_face"):
        ModelConfig(architecture=TINY, text={"kind": "sound"})
