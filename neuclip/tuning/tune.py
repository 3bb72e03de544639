"""Tuning of an encoder on captions: low-rank matrices, one-way contrastive loss, states to go on from.

Legend: B triples of an update, F width of a feature.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuclip.checkpoint.state import copy_state, load_state, save_state
from neuclip.foundation.errors import ConfigError, NumericsError
from neuclip.foundation.progress import Progress
from neuclip.storage.files import exists, get_file, put_file
from neuclip.text_encoder.encoder import TextEncoder, Tokens
from neuclip.text_encoder.features import STAGE
from neuclip.text_encoder.tune_config import TuneConfig
from neuclip.tuning.contrastive import contrastive_loss
from neuclip.tuning.lora import add_lora, merge_lora
from neuclip.tuning.triples import Triple, Triples

_SEED_FACTOR = 1_000_003
_LOG_EVERY = 20
_MOST_NORM = 1.0


@dataclass(frozen=True)
class Tuned:
    """What tuning did.

    Args:
        losses: of every 20th update, nats.
        resumed_at: the step that it went on from.
    """

    steps: int
    resumed_at: int
    losses: list[float]


class Tuner:
    """An encoder with low-rank matrices beside its weights, and their optimiser.

    Args:
        state_uri: file that a state is kept in to go on from; its owner removes it.
    """

    def __init__(
        self, encoder: TextEncoder, config: TuneConfig, *, seed: int, state_uri: str
    ) -> None:
        self._encoder, self._config, self._seed = encoder, config, seed
        self._state_uri = state_uri
        self._adapted = add_lora(encoder, config.lora, seed=seed)
        self._learned = {n: p for n, p in encoder.model.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.AdamW(self._learned.values(), lr=config.lr, weight_decay=0.0)
        self._step = 0
        self._losses: list[float] = []

    def run(self, triples: Triples, progress: Progress) -> Tuned:
        """Do the updates that are left, and add what was learnt to the encoder's weights.

        Raises: NumericsError: for a loss that is not finite. ConfigError: if a batch does not fit the device.
        """
        self._resume()
        resumed_at = self._step
        while self._step < self._config.steps:
            loss = self._tried(triples.batch(self._step, self._config.batch))
            self._step += 1
            is_last = self._step == self._config.steps
            if self._step % _LOG_EVERY == 0 or is_last:
                self._note(loss, progress)
            if self._step % self._config.save_every_steps == 0 and not is_last:
                self._save()
        self._encoder.model = merge_lora(self._adapted).eval()
        return Tuned(self._config.steps, resumed_at, self._losses)

    def update(self, triples: Sequence[Triple]) -> Tensor:
        """Do one update; return its loss."""
        self._encoder.model.train()
        rate = self._config.lr * min(1.0, (self._step + 1) / max(self._config.warmup_steps, 1))
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        texts = list(self._texts(triples))
        if self._config.micro_batch is None:
            features = [self._features(some, kind, 0) for kind, some in enumerate(texts)]
            loss = contrastive_loss(*features, temperature=self._config.temperature)
            loss.backward()
        else:
            loss = self._in_pieces(texts, self._config.micro_batch)
        nn.utils.clip_grad_norm_(self._learned.values(), _MOST_NORM)
        self._optimiser.step()
        return loss.detach()

    def _tried(self, triples: Sequence[Triple]) -> Tensor:
        try:
            return self.update(triples)
        except torch.OutOfMemoryError as error:
            now = self._config.micro_batch or self._config.batch
            raise ConfigError(
                f"{now} triples at once do not fit into the device's memory; set text_encoder.tune.micro_batch lower"
            ) from error

    def _texts(self, triples: Sequence[Triple]) -> Iterator[list[Tokens]]:
        """Yield the tokens of queries, positives and, if they are candidates, negatives."""
        words = self._encoder.tokenizer
        yield [words.of([one.query], instruction=one.instruction)[0] for one in triples]
        yield words.of([one.positive for one in triples])
        if self._config.hard_negatives:
            yield words.of([one.negative for one in triples])

    def _in_pieces(self, texts: Sequence[list[Tokens]], size: int) -> Tensor:
        """Do the backward pass with one piece's graph at a time; see training/feature_cache.py."""
        leaves: list[Tensor] = []
        with torch.no_grad():
            for kind, some in enumerate(texts):
                parts = [
                    self._features(some[n : n + size], kind, n) for n in range(0, len(some), size)
                ]
                leaves.append(torch.cat(parts))
        for leaf in leaves:
            leaf.requires_grad_()
        loss = contrastive_loss(*leaves, temperature=self._config.temperature)
        loss.backward()
        for kind, (some, leaf) in enumerate(zip(texts, leaves, strict=True)):
            assert leaf.grad is not None, "the loss reads every text"
            for n in range(0, len(some), size):
                features = self._features(some[n : n + size], kind, n)
                torch.autograd.backward(features, leaf.grad[n : n + size])
        return loss

    def _features(self, tokens: Sequence[Tokens], kind: int, first: int) -> Float[Tensor, "B F"]:
        """Return features; random numbers inside (dropout) depend on step, kind of text and place alone."""
        draws = 0
        for number in (first, kind, self._seed, self._step):
            draws = draws * _SEED_FACTOR + number
        torch.manual_seed(draws % 2**63)
        batch = self._encoder.tokenizer.batch(tokens).to(self._encoder.device)
        return self._encoder.features(batch)

    def _note(self, loss: Tensor, progress: Progress) -> None:
        value = float(loss)
        if not torch.isfinite(loss):
            raise NumericsError(
                f"the loss of tuning the text encoder is {value} at step {self._step}; lower text_encoder.tune.lr, or "
                "set text_encoder.precision: float32"
            )
        self._losses.append(value)
        progress(
            STAGE,
            done=self._step,
            total=self._config.steps,
            note=f"tuning the encoder, loss {value:.3f}",
        )

    def _save(self) -> None:
        state = {
            "lora": self._learned,
            "optimiser": {
                name: self._optimiser.state[parameter] for name, parameter in self._learned.items()
            },
            "step": torch.tensor(self._step),
            "losses": torch.tensor(self._losses, dtype=torch.float64),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.safetensors"
            save_state(copy_state(state), path)
            put_file(path, self._state_uri)

    def _resume(self) -> None:
        """Go on from the state of a run that was killed, if there is one."""
        if not exists(self._state_uri):
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.safetensors"
            get_file(self._state_uri, path)
            state = load_state(path)
        with torch.no_grad():
            for name, parameter in self._learned.items():
                parameter.copy_(state["lora"][name])
                self._optimiser.state[parameter] = {
                    key: value.to(parameter.device) if value.ndim else value
                    for key, value in state["optimiser"][name].items()
                }
        self._step = int(state["step"])
        self._losses = state["losses"].tolist()
