"""A small world to compare in: 12 pairs, width 6, linear encoders."""

import torch
from torch.nn.functional import normalize


class Toy:
    """Raw inputs and two linear encoders, float64; `features` have a graph to the encoders."""

    def __init__(self, n=12, width=6, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.ids = torch.randperm(1000, generator=generator)[:n]
        self.raw_images = draw(n, 5)
        self.raw_texts = self.raw_images + draw(n, 5)
        self.image_encoder = draw(5, width).requires_grad_()
        self.text_encoder = (self.image_encoder.detach() + draw(5, width) / 2).requires_grad_()

    @property
    def encoders(self):
        return [self.image_encoder, self.text_encoder]

    def features(self):
        images = normalize(self.raw_images @ self.image_encoder, dim=1)
        return images, normalize(self.raw_texts @ self.text_encoder, dim=1)

    def double(self):
        """The same numbers in float64, as leaves of their own."""
        twin = object.__new__(Toy)
        twin.ids = self.ids
        for name in ("raw_images", "raw_texts"):
            setattr(twin, name, getattr(self, name).double())
        for name in ("image_encoder", "text_encoder"):
            setattr(twin, name, getattr(self, name).detach().double().requires_grad_())
        return twin


def relative_error(found, expected):
    """max |found - expected| / max |expected|, of tensors or matching lists of them (the worst)."""
    if isinstance(expected, list | tuple):
        return max(relative_error(f, e) for f, e in zip(found, expected, strict=True))
    found, expected = found.detach().double(), expected.detach().double()
    difference = (found - expected).abs().max()
    return float(difference / expected.abs().max())
