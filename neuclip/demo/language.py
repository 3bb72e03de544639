"""The demo's tiny models, which write texts as large ones would; they train in a minute, on drawings made for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from neuclip.demo.describer import Describer
from neuclip.demo.rewriter import Rewriter
from neuclip.demo.wordings import join_words, split_words
from neuclip.foundation.errors import DataError

WEIGHTS = "language.safetensors"

_REWRITER_STEPS, _DESCRIBER_STEPS = 500, 600


@dataclass(frozen=True)
class TinyModels:
    """A model that rewrites captions and one that describes pictures."""

    rewriter: Rewriter
    describer: Describer

    @classmethod
    def new(cls, seed: int) -> Self:
        """Return models that know nothing yet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(Rewriter(), Describer())

    @classmethod
    def train(cls, seed: int, *, share: float = 1.0) -> Self:
        """Return models that have learned: the same for the same seed, machine and number of threads.

        Args:
            share: of the usual number of updates.
        """
        models = cls.new(seed)
        models.rewriter.fit(seed=seed, steps=max(1, round(share * _REWRITER_STEPS)))
        models.describer.fit(seed=seed, steps=max(1, round(share * _DESCRIBER_STEPS)))
        return models

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return models that were saved.

        Raises: DataError: if the folder has none of this version.
        """
        path = folder / WEIGHTS
        models = cls.new(0)
        try:
            models._parts().load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise DataError(
                f"{path} does not hold the demo's tiny models: {error}. Remove it, they are trained anew"
            ) from error
        return models

    @classmethod
    def load_or_train(cls, folder: Path, seed: int = 0) -> Self:
        """Return the models of a folder; they are trained and saved there if there are none."""
        if (folder / WEIGHTS).is_file():
            return cls.load(folder)
        models = cls.train(seed)
        models.save(folder)
        return models

    def save(self, folder: Path) -> None:
        """Write the weights into a folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{WEIGHTS}"
        save_file(self._parts().state_dict(), half)
        half.replace(folder / WEIGHTS)

    def rewrite(self, text: str, seed: int, temperature: float) -> str:
        """Say a caption in other words, see `Rewriter`."""
        return self.rewriter.rewrite(text, seed=seed, temperature=temperature)

    def describe(self, image_bytes: bytes) -> str:
        """Say what an image shows, see `Describer`."""
        return self.describer.describe(image_bytes)

    def fuse(self, alt: str, description: str, seed: int = 0, temperature: float = 0.0) -> str:
        """Say a description in other words, followed by the names and numbers that the alt text alone has."""
        fused = split_words(self.rewrite(description, seed, temperature))
        names = [
            word
            for word in split_words(alt)
            if (word[:1].isupper() or any(map(str.isdigit, word))) and word not in fused
        ]
        return join_words([*fused, *([",", *dict.fromkeys(names)] if names else [])])

    def _parts(self) -> nn.ModuleDict:
        return nn.ModuleDict({"rewriter": self.rewriter, "describer": self.describer})
