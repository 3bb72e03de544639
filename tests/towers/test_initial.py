"""Oracles: the tensors that were saved, open_clip's own loading, and what a tower then computes."""

import json
import math
from dataclasses import replace

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from towers.tiny import TINY

from neuclip.foundation.errors import CheckpointError, ConfigError, DataError
from neuclip.towers.config import ModelConfig
from neuclip.towers.files import CONFIG_FILE, WEIGHTS_FILE, fingerprint_model
from neuclip.towers.folder import save_towers
from neuclip.towers.initial import start_from
from neuclip.towers.initial_config import InitialConfig
from neuclip.towers.model import create_towers

TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_proj": "linear", "image_size": 32}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}


def changed(vision=None, text=None, **fields):
    return {
        **TINY,
        **fields,
        "vision_cfg": {**TINY["vision_cfg"], **(vision or {})},
        "text_cfg": {**TINY["text_cfg"], **(text or {})},
    }


def towers_of(architecture, seed=1):
    return create_towers(ModelConfig(architecture=architecture), seed=seed)


def saved(folder, architecture=TINY, seed=7):
    towers = towers_of(architecture, seed)
    with torch.no_grad():
        for buffer in towers.model.buffers():
            if buffer.is_floating_point() and buffer.numel() < 100:
                buffer.add_(0.25)  # running statistics that have been somewhere
    save_towers(towers, folder)
    return towers.model.state_dict()


def start(folder, architecture=TINY, **fields):
    return start_from(towers_of(architecture), InitialConfig(model=str(folder), **fields))


def rewrite(folder, change):
    """Change the tensors of a folder."""
    save_file(change(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE)


@pytest.mark.parametrize(
    "architecture",
    [TINY, {**TINY, "vision_cfg": RESNET}, {**TINY, "vision_cfg": TIMM, "custom_text": True}],
    ids=["vit", "resnet", "timm"],
)
def test_both_towers_are_those_of_the_folder(tmp_path, architecture):
    expected = saved(tmp_path, architecture)
    begun = start(tmp_path, architecture)
    found = begun.towers.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name != "logit_scale":
            assert torch.equal(found[name], tensor), name
    assert torch.equal(begun.log_scale, expected["logit_scale"])
    assert begun.notes == []


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_tower_is_and_the_other_is_new(tmp_path, tower):
    theirs, new = saved(tmp_path), towers_of(TINY).model.state_dict()
    found = start(tmp_path, towers=tower).towers.model.state_dict()
    for name, tensor in found.items():
        is_asked = name.startswith("visual.") == (tower == "image")
        expected = theirs if is_asked and name != "logit_scale" else new
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("custom_text", [False, True])
def test_positions_of_other_sizes_are_those_that_open_clip_loads(tmp_path, custom_text):
    saved(tmp_path, changed(custom_text=custom_text))
    larger = changed({"image_size": 48}, {"context_length": 24}, custom_text=custom_text)
    begun = start(tmp_path, larger)
    folder = tmp_path / "larger"
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": larger, "preprocess_cfg": {}}))
    (folder / WEIGHTS_FILE).write_bytes((tmp_path / WEIGHTS_FILE).read_bytes())
    expected = open_clip.create_model(f"local-dir:{folder}").state_dict()
    for name, tensor in begun.towers.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert [note.split(" was ")[1] for note in begun.positions] == [
        "interpolated, [17, 32] became [37, 32]",
        "interpolated, [16, 32] became [24, 32]",
    ]
    assert begun.towers.image_px == 48


@pytest.mark.parametrize(
    ("vision", "changes", "name"),
    [
        (TIMM, {"timm_model_name": "vit_tiny_patch16_384"}, "visual.trunk.pos_embed"),
        (RESNET, {"image_size": 64}, "visual.attnpool.positional_embedding"),
    ],
    ids=["timm", "resnet"],
)
def test_other_kinds_of_image_towers_carry_their_positions_over(tmp_path, vision, changes, name):
    theirs = saved(tmp_path, {**TINY, "vision_cfg": vision})
    larger = {**TINY, "vision_cfg": {**vision, **changes}}
    found = start(tmp_path, larger).towers.model.state_dict()
    table, own = found[name].flatten(0, -2), theirs[name].flatten(0, -2)
    assert len(table) > len(own)
    assert torch.equal(table[0], own[0])
    side = math.isqrt(len(table))
    expected = resample_abs_pos_embed(own[None], [side, side], num_prefix_tokens=1)[0]
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-6)


def test_fixed_tables_are_made_anew_and_texts_interpolated(tmp_path):
    fixed = {"pos_embed_type": "sin_cos_2d"}
    saved(tmp_path, changed(fixed))
    larger = changed({**fixed, "image_size": 48}, {"context_length": 24})
    begun = start(tmp_path, larger, positions="regenerate")
    name = "visual.positional_embedding"
    assert torch.equal(
        begun.towers.model.state_dict()[name], towers_of(larger).model.state_dict()[name]
    )
    assert ["made anew" in note for note in begun.positions] == [True, False]


def test_a_fixed_table_may_become_a_learned_one(tmp_path):
    saved(tmp_path, changed({"pos_embed_type": "sin_cos_2d"}))
    begun = start(tmp_path, changed({"image_size": 48}))
    assert begun.towers.model.visual.positional_embedding.requires_grad


def test_preprocessing_comes_with_the_image_tower(tmp_path):
    towers = towers_of(TINY)
    half = [0.5, 0.5, 0.5]
    save_towers(replace(towers, preprocess={**towers.preprocess, "mean": half}), tmp_path)
    larger = changed({"image_size": 48})
    assert start(tmp_path, larger).towers.mean == tuple(half)
    assert start(tmp_path, larger).towers.preprocess["size"] == towers_of(larger).preprocess["size"]
    assert start(tmp_path, towers="text").towers.mean == towers.mean


def test_prefixes_and_half_precision_are_taken_and_said(tmp_path):
    theirs = saved(tmp_path)
    rewrite(tmp_path, lambda all_: {f"module.{name}": x.half() for name, x in all_.items()})
    begun = start(tmp_path)
    assert begun.notes == [
        f"all {len(theirs)} names began with `module.`, which was left out",
        "weights in float16 were converted to float32",
    ]
    for name, tensor in begun.towers.model.state_dict().items():
        assert tensor.dtype == torch.float32
        if name != "logit_scale":
            assert torch.equal(tensor, theirs[name].half().float()), name


def test_the_temperature_is_kept_or_new(tmp_path):
    saved(tmp_path, changed(init_logit_bias=-7.0))
    begun = start(tmp_path)  # an architecture without a bias: the objective has it
    assert begun.bias == -7
    begun = start(tmp_path, temperature="new")
    assert (begun.log_scale, begun.bias) == (None, None)
    rewrite(tmp_path, lambda all_: {n: x for n, x in all_.items() if n != "logit_scale"})
    with pytest.raises(ConfigError, match=r"no logit_scale.*temperature: new"):
        start(tmp_path)


def only(*prefixes):
    return lambda all_: {n: x for n, x in all_.items() if n.startswith(prefixes)}


@pytest.mark.parametrize(
    ("architecture", "change", "fields", "message"),
    [
        (
            changed({"width": 48}),
            None,
            {},
            r"visual\.\S+ is \[.*32.*\] in .*expected \[.*48.*\] as train\.model",
        ),
        (changed(embed_dim=16), None, {}, r"text_projection is \[32, 32\].*expected \[32, 16\]"),
        (changed({"layers": 3}), None, {}, r"lacks 12 tensors \(visual\.transformer\.resblocks\.2"),
        (
            changed({"layers": 1}),
            None,
            {},
            r"has 12 of its own \(visual\.transformer\.resblocks\.1",
        ),
        (
            changed({"head_width": 8}),
            None,
            {},
            r"vision_cfg\.head_width is 16 in .*found 8 in train",
        ),
        (changed(quick_gelu=True), None, {}, r"quick_gelu is False in .*found True"),
        (changed(text={"heads": 4}), None, {}, r"text_cfg\.heads is 2 in .*found 4"),
        (TINY, only("visual."), {}, r"has no text tower \(\d+ tensors.*ask for the other one"),
        (TINY, only("visual."), {"towers": "text"}, r"towers is text, and .* has no text tower"),
        (TINY, lambda _: {}, {}, r"has no image and no text tower \(0 tensors, none\)"),
        (TINY, None, {"positions": "regenerate"}, r"image tower's positions .* are learned"),
        (
            TINY,
            None,
            {"positions": "regenerate", "towers": "text"},
            r"text positions are learned; use interpolate",
        ),
        (TINY, lambda all_: {n: x * torch.nan for n, x in all_.items()}, {}, "are not finite"),
        (
            TINY,
            lambda all_: {"module.visual.proj": all_["visual.proj"].clone(), **all_},
            {},
            "1 of its own",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, architecture, change, fields, message):
    saved(tmp_path)
    if change:
        rewrite(tmp_path, change)
    with pytest.raises(ConfigError, match=message):
        start(tmp_path, architecture, **fields)


def test_the_other_tower_may_be_of_any_kind(tmp_path):
    saved(tmp_path, changed({"width": 48}, text={"heads": 4}))
    start(tmp_path, changed(text={"heads": 4}), towers="text")
    start(tmp_path, changed({"width": 48}), towers="image")


def test_folders_that_are_no_model_say_what_they_are(tmp_path):
    with pytest.raises(DataError, match=r"no open_clip_config\.json and no .*found no file"):
        fingerprint_model(str(tmp_path / "none"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"found notes\.txt; expected both"):
        fingerprint_model(str(tmp_path))
    saved(tmp_path / "model")
    (tmp_path / "model" / CONFIG_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="is not a configuration of open_clip"):
        start(tmp_path / "model")
    saved(tmp_path / "model")
    (tmp_path / "model" / WEIGHTS_FILE).write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match="no file of safetensors"):
        start(tmp_path / "model")


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_and_never_opened(tmp_path, name, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    saved(tmp_path)
    (tmp_path / WEIGHTS_FILE).rename(tmp_path / name)
    for where in (tmp_path, tmp_path / name):
        with pytest.raises(
            DataError, match=rf"{name} is a pickle.*never opened; save its state_dict"
        ):
            start(where)


def test_a_model_is_known_by_its_content(tmp_path):
    saved(tmp_path / "a")
    saved(tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("another file")
    assert fingerprint_model(str(tmp_path / "a")) == fingerprint_model(str(tmp_path / "b"))
    saved(tmp_path / "b", seed=8)
    assert fingerprint_model(str(tmp_path / "a")) != fingerprint_model(str(tmp_path / "b"))
