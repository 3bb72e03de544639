"""Tiny encoders of texts as local folders in Hugging Face's format, with weights that are drawn here."""

import json
from pathlib import Path

import torch
from generation.local_folders import BOS, EOS, PAD, POSITIONS, VOCABULARY, tokenizer
from tokenizers import processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from neuclip.text_encoder.config import TextEncoderConfig
from neuclip.text_encoder.encoder import describe_encoder, load_encoder

WIDTH = 64
TEXTS = [
    "a red circle left of a blue square",
    "cat",
    "what is to be seen on the picture is a dog that sleeps under a tree in the afternoon",
    "",
]


def llama(folder: Path, *, seed=0, width=WIDTH, **fields) -> Path:
    """A causal model of two layers; its tokenizer begins texts with <s>."""
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        **fields,
    )
    return _save(folder, LlamaModel, config, tokenizer(), seed)


def bert(folder: Path, *, seed=0) -> Path:
    """An encoder of two layers; its tokenizer puts <s> and </s> around texts, as classes and separators."""
    config = BertConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        pad_token_id=PAD,
    )
    words = tokenizer()
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    words.cls_token, words.sep_token = "<s>", "</s>"
    return _save(folder, BertModel, config, words, seed)


def encoder(folder: Path, **settings):
    """Load a folder as the stage would."""
    config = TextEncoderConfig(
        folder=str(folder), **{"precision": "float32", "max_tokens": 128, **settings}
    )
    return load_encoder(str(folder), describe_encoder(str(folder), config))


def edit(folder: Path, name: str, **fields) -> None:
    """Set fields of a JSON file; None takes one away."""
    content = json.loads((folder / name).read_text()) | fields
    kept = {field: value for field, value in content.items() if value is not None}
    (folder / name).write_text(json.dumps(kept))


def _save(folder: Path, kind, config, words, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
