"""Low-rank matrices beside the weights of an encoder, by the peft library."""

import warnings
from typing import Any, cast

import torch
from torch import nn

from neuclip.foundation.errors import ConfigError
from neuclip.text_encoder.encoder import TextEncoder
from neuclip.text_encoder.tune_config import LoraConfig


def add_lora(encoder: TextEncoder, config: LoraConfig, *, seed: int) -> Any:  # noqa: ANN401  # of a library that need not be installed
    """Put low-rank matrices beside all linear layers of an encoder, in place; they alone have a gradient.

    The second of each two is zero, so features are as before to the bit. Nothing of the global random state is used.

    Returns: peft's model around the encoder's.
    Raises: ConfigError: if the library is not installed, or the model has no linear layers that it finds.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model
    except ImportError as error:
        raise ConfigError(
            "tuning of a text encoder needs the peft library; install it with: pip install 'neuclip[llm]'"
        ) from error
    asked = PeftConfig(
        r=config.rank,
        lora_alpha=cast("int", config.alpha),
        lora_dropout=config.dropout,
        target_modules="all-linear",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's words to itself about transformers
        torch.manual_seed(seed)
        try:
            return get_peft_model(cast("Any", encoder.model), asked).eval()
        except ValueError as error:
            raise ConfigError(
                f"low-rank matrices do not fit the {encoder.record.model_type} model: {error}; take a transformer with "
                "linear layers"
            ) from error


def merge_lora(adapted: Any) -> nn.Module:  # noqa: ANN401  # what add_lora returned
    """Add the matrices to the weights, and return the model as it was before but for these."""
    return cast("nn.Module", adapted.merge_and_unload())
