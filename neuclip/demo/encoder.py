"""The demo's language model: a Llama of two layers with drawn weights, which has read nothing until it is tuned."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from neuclip.demo.captions import write_caption, write_rewrite
from neuclip.demo.scenes import make_scene
from neuclip.foundation.randomness import generator

WIDTH = 64
_SPECIAL = ["<pad>", "<s>", "</s>"]
_PAD, _BOS, _EOS = range(3)
_VOCABULARY, _POSITIONS, _TEXTS = 512, 128, 400
_VIEW = 5


def draw_encoder(folder: Path, seed: int = 0) -> None:
    """Write the folder of a language model unless it is there, as the transformers library saves one."""
    if folder.is_dir():
        return
    import torch
    from transformers import LlamaConfig, LlamaModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of saving a model of half a million weights

    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=_VOCABULARY,
        max_position_embeddings=_POSITIONS,
        pad_token_id=_PAD,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
    )
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaModel(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    try:
        model.save_pretrained(unfinished)
        _tokenizer(seed).save_pretrained(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _tokenizer(seed: int) -> Any:  # noqa: ANN401  # of a library that need not be installed
    """Return a byte-level tokenizer that has seen some captions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    parts = cast("Any", inner)
    parts.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts.decoder = decoders.ByteLevel()
    parts.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", _BOS)]
    )
    inner.train_from_iterator(
        _captions(seed),
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    roles = dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **roles)


def _captions(seed: int) -> Iterator[str]:
    for number in range(_TEXTS):
        draws = generator(seed, sample_id=number, view=_VIEW)
        scene = make_scene(draws)
        yield write_caption(scene, draws)
        yield write_rewrite(scene, draws)
