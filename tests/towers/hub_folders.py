"""Tiny tokenizers and text models in Hugging Face's format, trained and drawn here."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from towers.tiny import COLOURS, TINY

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
"""Their places are their ids: open_clip's `eos` pooling looks for 2 by default."""
CAPTIONS = [f"a photo of a {colour} thing" for colour in COLOURS]
_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2} | {
    "intermediate_size": 32,
    "max_position_embeddings": 80,
}
_SIZES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "mt5": {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8},
    "m2m_100": {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 80,
    },
}


def tokenizer_folder(folder: Path, kind: str = "WordLevel", captions=CAPTIONS) -> Path:
    """Train a tokenizer on a few captions and save it as Hugging Face's libraries do."""
    from transformers import PreTrainedTokenizerFast

    unknown = {} if kind == "Unigram" else {"unk_token": "[UNK]"}
    tokenizer = Tokenizer(getattr(models, kind)(**unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    size = {"vocab_size": 90} if kind != "WordLevel" else {}
    more = {"unk_token": "[UNK]"} if kind == "Unigram" else {}
    trainer = getattr(trainers, f"{kind.replace('BPE', 'Bpe')}Trainer")(
        special_tokens=SPECIAL, show_progress=False, **size, **more
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        unk_token="[UNK]",
    ).save_pretrained(folder)
    return folder


def change(folder: Path, name: str, **fields) -> Path:
    """Set fields of a JSON file; `model__dropout` is the field `dropout` of `model`."""
    content = json.loads((folder / name).read_text())
    for field, value in fields.items():
        *outer, last = field.split("__")
        place = content
        for part in outer:
            place = place[part]
        place[last] = value
    (folder / name).write_text(json.dumps(content))
    return folder


def text_folder(folder: Path, model_type: str = "bert", *, weights: bool = False) -> Path:
    """Save a tiny text model of a type with its tokenizer, with drawn weights on request."""
    import torch
    from transformers import AutoConfig, AutoModel

    tokenizer_folder(folder)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = AutoConfig.for_model(model_type, vocab_size=64, **_SIZES[model_type], **ids)
    config.save_pretrained(folder)
    if weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            AutoModel.from_config(config).save_pretrained(folder)
    return folder


SMALL_SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 128,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
"""open_clip's ViT-B-16-SigLIP, made small."""

SMALL_CLIPA = {
    "embed_dim": 64,
    "vision_cfg": {
        **TINY["vision_cfg"],
        "pos_embed_type": "sin_cos_2d",
        "no_ln_pre": True,
        "pool_type": "avg",
        "final_ln_after_pool": True,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 128,
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
        "width": 32,
        "heads": 2,
        "layers": 1,
        "pool_type": "last",
        "no_causal_mask": True,
    },
}
"""open_clip's ViT-L-14-CLIPA, made small, with CLIPA's fixed positions."""

CLIP_WITH_WORDS = {
    **TINY,
    "text_cfg": {**TINY["text_cfg"], "vocab_size": 64, "pool_type": "last"},
}
