"""Tiny language models in Hugging Face's format, drawn here, with tokenizers trained here."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<image>"]
PAD, BOS, EOS, IMAGE = 0, 1, 2, 6
VOCABULARY = 300
POSITIONS = 256
TEXTS = ["a red circle left of a blue square", "rewrite this caption please", "what is to be seen"]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + TEMPLATE
)


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on a few texts, which begins texts with a token of its own as Llama's does."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=template,
    )


def _llama(**fields) -> LlamaConfig:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    return LlamaConfig(
        **(sizes | heads | ids),
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        **fields,
    )


def _save(folder: Path, model, processor, *, spread: float = 0.3) -> Path:
    """Draw weights that make one token much likelier than the next, so that rounding decides nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=1.0 if "lm_head" in name else spread)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def text_model(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Save a tiny Llama."""
    return _save(folder, LlamaForCausalLM(_llama()), tokenizer(template))


def transcript_model(folder: Path) -> Path:
    """Save a tiny GPT-2 with tied weights, without a chat template and without padding."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    words = tokenizer(template=None)
    words.pad_token = None
    return _save(folder, GPT2LMHeadModel(config), words)


def image_text_model(folder: Path, *, template: str | None = TEMPLATE) -> Path:
    """Save a tiny LLaVA, whose images are 4 tokens each."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=16,
        projection_dim=32,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=_llama(),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        image_seq_length=4,
    )
    words = tokenizer(template)
    size = {"height": 32, "width": 32}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size),
        tokenizer=words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template,
    )
    return _save(folder, LlavaForConditionalGeneration(config), processor)


def change(folder: Path, name: str, **fields) -> Path:
    """Set fields of a JSON file."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | fields))
    return folder
