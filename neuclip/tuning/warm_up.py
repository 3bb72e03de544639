"""Masked next-token prediction: a causal model learns to use what stands after a token (LLM2Vec, arXiv 2404.05961).

Legend: B texts, L tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from neuclip.foundation.errors import ConfigError, NumericsError
from neuclip.foundation.progress import Progress
from neuclip.foundation.randomness import generator, permutation
from neuclip.text_encoder.encoder import DTYPES, TextEncoder, TokenBatch, in_reach
from neuclip.text_encoder.features import STAGE
from neuclip.text_encoder.tune_config import TuneConfig, WarmUpConfig
from neuclip.tuning.lora import add_lora, merge_lora
from neuclip.tuning.triples import TwoKinds

_VIEW = 22
"""Number of the draws of this module among all that a seed is for."""
_SEED_FACTOR = 1_000_003
_LOG_EVERY = 20


def warm_up(
    encoder: TextEncoder,
    tune: TuneConfig,
    pairs: Sequence[TwoKinds],
    folder_uri: str,
    *,
    seed: int,
    progress: Progress,
) -> list[float]:
    """Let an encoder guess hidden tokens from both sides, and add what it learns to its weights.

    Returns: the loss of every 20th update in nats; nothing without `tune.warm_up`.
    Raises: ConfigError: if the folder's model has no head that names tokens. NumericsError: for a loss that is not
        finite.
    """
    config = tune.warm_up
    if config is None:
        return []
    head = _head(folder_uri, encoder)
    adapted = add_lora(encoder, tune.lora, seed=seed + 1)
    learned = [p for p in encoder.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=config.lr, weight_decay=0.0)
    losses: list[float] = []
    encoder.model.train()
    for step in range(config.steps):
        torch.manual_seed((seed * _SEED_FACTOR + step) % 2**63)
        loss = hidden_token_loss(encoder, head, *_batch(encoder, config, pairs, step, seed))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        if step % _LOG_EVERY == 0 or step == config.steps - 1:
            if not torch.isfinite(loss):
                raise NumericsError(
                    f"the loss of warming up the text encoder is not finite at step {step}; lower "
                    "text_encoder.tune.warm_up.lr"
                )
            losses.append(float(loss.detach()))
            progress(STAGE, done=step, total=config.steps, note="warming up the encoder")
    encoder.model = merge_lora(adapted).eval()
    return losses


def hidden_token_loss(
    encoder: TextEncoder, head: nn.Module, batch: TokenBatch, is_hidden: Tensor, blank: int
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of hidden tokens, each guessed from the state before it.

    Args:
        is_hidden: [B, L], never of the first token.
        blank: id that stands in the place of hidden tokens.
    """
    given = TokenBatch(torch.where(is_hidden, blank, batch.ids), batch.is_text, batch.is_pooled)
    states = encoder.states(given)
    before = is_hidden.roll(-1, dims=1)
    return cross_entropy(head(states[before]).float(), batch.ids[is_hidden])


def _batch(
    encoder: TextEncoder, config: WarmUpConfig, pairs: Sequence[TwoKinds], step: int, seed: int
) -> tuple[TokenBatch, Tensor, int]:
    """Return the texts of a step, short or long by a coin, and which of their tokens are hidden."""
    places = range(step * config.batch, (step + 1) * config.batch)
    count = len(pairs)
    orders = {e: permutation(count, seed=seed, epoch=e) for e in {p // count for p in places}}
    texts: list[str] = []
    draws: list[np.random.Generator] = []
    for place in places:
        pair = int(orders[place // count][place % count])
        draw = generator(seed, epoch=place // count, sample_id=pair, view=_VIEW)
        kind = pairs[pair].short if draw.integers(2) else pairs[pair].long
        texts.append(kind[int(draw.integers(len(kind)))])
        draws.append(draw)
    batch = encoder.tokenizer.batch(encoder.tokenizer.of(texts))
    is_hidden = torch.zeros_like(batch.is_text)
    for row, draw in enumerate(draws):
        candidates = batch.is_pooled[row].nonzero().flatten()
        candidates = candidates[candidates > 0].numpy()
        if len(candidates):
            most = max(1, round(config.share * len(candidates)))
            is_hidden[row, draw.permutation(candidates)[:most]] = True
    blank = encoder.tokenizer.first_id(config.blank)
    device = encoder.device
    return batch.to(device), is_hidden.to(device), blank


def _head(folder_uri: str, encoder: TextEncoder) -> nn.Module:
    """Load what names tokens of states, from the same folder."""
    from transformers import AutoModelForCausalLM

    with in_reach(folder_uri) as place:
        try:
            loader: Any = AutoModelForCausalLM
            model, found = loader.from_pretrained(
                place,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=DTYPES[encoder.record.precision],
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"text_encoder.tune.warm_up needs a causal language model with its head, and {folder_uri} holds none: "
                f"{error}; leave warm_up out"
            ) from error
    head: Any = model.get_output_embeddings()
    if head is None or any("lm_head" in name for name in found["missing_keys"]):
        raise ConfigError(
            f"text_encoder.tune.warm_up needs a model with its head, and the weights in {folder_uri} lack it; take the "
            "folder of the whole language model, or leave warm_up out"
        )
    return head.requires_grad_(False).to(encoder.device)  # noqa: FBT003  # torch's own signature
