"""The two towers of a run: small ones made here for a CPU, or an open_clip architecture by name.

Legend: B batch, L words of a caption, T tokens, D width of the features, W width inside.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuclip.towers.config import ModelConfig
from neuclip.towers.model import create_towers
from neuclip.towers.towers import Towers

SMALL, MEDIUM = "small", "medium"
_HEADS = 4
_SMALL_PX, _TOKENS, _MAX_WORDS = 32, 16, 24
_PAD, _UNKNOWN = 0, 1


class Size(NamedTuple):
    """Of towers made here; features are as wide as what is inside."""

    width: int
    image_blocks: int
    text_blocks: int


SIZES = {SMALL: Size(64, 3, 2), MEDIUM: Size(256, 6, 4)}
"""0.2 M weights, and 7 M."""


class Encoders(nn.Module):
    """Two towers with unit-norm features, and the tokens of captions."""

    feature_dim: int

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Return word numbers [N, L]."""
        raise NotImplementedError

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of uint8 images and of tokens, float32."""
        return self.encode_images(images), self.encode_texts(tokens)

    def encode_images(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def encode_texts(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


def make_encoders(
    architecture: str, captions: Sequence[str], *, seed: int, device: torch.device
) -> Encoders:
    """Return new encoders; their weights are a pure function of architecture, captions and seed.

    Args:
        captions: of the training set; small towers know their words only.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture in SIZES:
            return SmallEncoders(captions, SIZES[architecture]).to(device)
        return OpenClipEncoders(create_towers(ModelConfig(name=architecture), seed=seed), device)


class OpenClipEncoders(Encoders):
    """An open_clip model, bfloat16 inside; images are scaled to its size on the device."""

    def __init__(self, towers: Towers, device: torch.device) -> None:
        super().__init__()
        self.model = towers.model.to(device)
        self.towers = towers
        self.feature_dim = towers.embed_dim
        self.register_buffer("mean", torch.tensor(towers.mean, device=device)[:, None, None])
        self.register_buffer("std", torch.tensor(towers.std, device=device)[:, None, None])

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        return self.towers.tokenize(list(captions))

    def encode_images(self, images: Tensor) -> Tensor:
        size = (self.towers.image_px, self.towers.image_px)
        with torch.autocast(images.device.type, torch.bfloat16):
            pixels = functional.interpolate(images.float(), size, mode="bilinear") / 255
            features = self.towers.image_features((pixels - self.mean) / self.std)
        return functional.normalize(features.float(), dim=1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16):
            features = self.towers.text_features(tokens)
        return functional.normalize(features.float(), dim=1)


class SmallEncoders(Encoders):
    """A transformer over the 16 tokens of a convolution stem, and one over words."""

    def __init__(self, captions: Sequence[str], size: Size) -> None:
        super().__init__()
        width = self.feature_dim = size.width
        words = sorted({word for caption in captions for word in _words(caption)})
        self.numbers = {word: number for number, word in enumerate(words, start=_UNKNOWN + 1)}
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 4, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )
        self.places = nn.Parameter(0.02 * torch.randn(_TOKENS, width))
        self.words = nn.Embedding(len(words) + 2, width)
        self.word_places = nn.Parameter(0.02 * torch.randn(_MAX_WORDS, width))
        nn.init.normal_(self.words.weight, std=0.1)
        self.image_blocks = nn.ModuleList(Block(width) for _ in range(size.image_blocks))
        self.text_blocks = nn.ModuleList(Block(width) for _ in range(size.text_blocks))
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_out = nn.Linear(width, width, bias=False)
        self.text_out = nn.Linear(width, width, bias=False)

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        rows = [
            [self.numbers.get(word, _UNKNOWN) for word in _words(caption)[:_MAX_WORDS]]
            for caption in captions
        ]
        tokens = torch.full((len(rows), max(map(len, rows))), _PAD)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        return tokens

    def encode_images(self, images: Tensor) -> Tensor:
        if images.shape[-1] != _SMALL_PX:
            raise ValueError(f"small towers take images of {_SMALL_PX} px, not {images.shape[-1]}")
        tokens_BTW = self.stem(images.float() / 128 - 1).flatten(2).transpose(1, 2) + self.places
        for block in self.image_blocks:
            tokens_BTW = block(tokens_BTW, None)
        pooled_BW = self.image_norm(tokens_BTW).mean(dim=1)
        return functional.normalize(self.image_out(pooled_BW), dim=1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        is_word_BL = tokens != _PAD
        words_BLW = self.words(tokens) + self.word_places[: tokens.shape[1]]
        for block in self.text_blocks:
            words_BLW = block(words_BLW, is_word_BL[:, None, None])
        shares_BL1 = (is_word_BL / is_word_BL.sum(dim=1, keepdim=True).clamp(min=1))[..., None]
        pooled_BW = (self.text_norm(words_BLW) * shares_BL1).sum(dim=1)
        return functional.normalize(self.text_out(pooled_BW), dim=1)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens_BTW: Tensor, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(self.norm_1(tokens_BTW)).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv, attn_mask=mask)
        tokens_BTW = tokens_BTW + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens_BTW + self.mlp(self.norm_2(tokens_BTW))


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", caption.lower())
