"""A word-level sequence model that says a caption in other words: GRUs with attention, which may copy words.

Legend: B texts, S words of the source, T words of the target, V words known, W width.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from neuclip.demo.captions import write_caption
from neuclip.demo.scenes import make_scene
from neuclip.demo.wordings import another_wording, join_words, known_words, split_words, state
from neuclip.foundation.randomness import generator

_PAD, _BEGIN, _END = 0, 1, 2
_NAMES = 6
"""Words that are not known stand for themselves, in the order in which they come: as many as this are copied."""
_FIRST_NAME, _FIRST_WORD = 3, 3 + _NAMES
_WORDS = known_words()
_ID = {word: _FIRST_WORD + place for place, word in enumerate(_WORDS)}
_KNOWN = _FIRST_WORD + len(_WORDS)
_MOST_WORDS = 48
_WIDTH = 64
_VIEW = 901
"""Of the keyed random numbers: no scene of the demo's web is one that was learned from."""
_BATCH, _RATE = 64, 6e-3
_LEAST_WEIGHT = 0.2
"""Words that are less likely than this share of the likeliest one are not drawn."""
_RENAMED = 0.2
_UNKNOWN = ("zebra", "lamp", "Anna", "B52", "Paris", "1984")

_Source = Int64[Tensor, "B S"]
_Target = Int64[Tensor, "B T"]


class Rewriter(nn.Module):
    """Maps a caption to another wording, one word after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_KNOWN, _WIDTH, padding_idx=_PAD)
        self.encoder = nn.GRU(_WIDTH, _WIDTH, batch_first=True, bidirectional=True)
        self.start = nn.Linear(2 * _WIDTH, 2 * _WIDTH)
        self.decoder = nn.GRU(_WIDTH, 2 * _WIDTH, batch_first=True)
        self.query = nn.Linear(2 * _WIDTH, 2 * _WIDTH)
        self.mix = nn.Linear(4 * _WIDTH, 2 * _WIDTH)
        self.words = nn.Linear(2 * _WIDTH, _KNOWN)
        self.copies = nn.Linear(2 * _WIDTH, 1)

    def read(self, source: _Source) -> tuple[Float[Tensor, "B S 2W"], Float[Tensor, "1 B 2W"]]:
        """Return a state of each word, and the state that the decoder begins with."""
        states, _ = self.encoder(self.embedding(source))
        is_word = (source != _PAD).unsqueeze(-1)
        mean = (states * is_word).sum(dim=1) / is_word.sum(dim=1)
        return states, self.start(mean).tanh().unsqueeze(0)

    def write(
        self,
        source: _Source,
        states: Float[Tensor, "B S 2W"],
        before: _Target,
        hidden: Float[Tensor, "1 B 2W"],
    ) -> tuple[Float[Tensor, "B T V"], Float[Tensor, "1 B 2W"]]:
        """Return how likely each word is next, after each of the words before: written anew, or copied."""
        outputs, hidden = self.decoder(self.embedding(before), hidden)
        scores = self.query(outputs) @ states.transpose(1, 2)
        attention = scores.masked_fill((source == _PAD).unsqueeze(1), -torch.inf).softmax(dim=-1)
        mixed = self.mix(torch.cat([outputs, attention @ states], dim=-1)).tanh()
        copied = self.copies(mixed).sigmoid()
        written = self.words(mixed).softmax(dim=-1) * (1 - copied)
        places = source.unsqueeze(1).expand(-1, before.shape[1], -1)
        return written.scatter_add(2, places, attention * copied), hidden

    def fit(self, *, seed: int, steps: int) -> None:
        """Learn from captions that are made for it and other wordings of them."""
        optimiser = torch.optim.Adam(self.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
        for step in range(steps):
            pairs = [_pair(seed, step * _BATCH + number) for number in range(_BATCH)]
            source = _padded([one for one, _ in pairs])
            target = _padded([[_BEGIN, *other, _END] for _, other in pairs])
            states, hidden = self.read(source)
            likely, _ = self.write(source, states, target[:, :-1], hidden)
            after = target[:, 1:]
            loss = functional.nll_loss(
                (likely + 1e-9).log().flatten(0, 1), after.flatten(), ignore_index=_PAD
            )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimiser.step()
            schedule.step()

    @torch.inference_mode()
    def rewrite(self, text: str, *, seed: int, temperature: float) -> str:
        """Say a text in other words; at temperature 0 in the likeliest ones.

        The words are a pure function of text, seed and temperature.
        """
        ids, names = _ids(split_words(text)[:_MOST_WORDS])
        if not ids:
            return text
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        shares = generator(seed, sample_id=key, view=_VIEW).random(_MOST_WORDS)
        source = torch.tensor([ids])
        states, hidden = self.read(source)
        made: list[int] = [_BEGIN]
        for share in shares:
            likely, hidden = self.write(source, states, torch.tensor([made[-1:]]), hidden)
            word = _drawn(likely[0, 0].double().numpy(), float(share), temperature)
            if word == _END:
                break
            made.append(word)
        return join_words([_word(one, names) for one in made[1:]])


def _pair(seed: int, number: int) -> tuple[list[int], list[int]]:
    """Make a caption and another wording of it, with an unknown word in the place of a known one now and then."""
    random = generator(seed, sample_id=number, view=_VIEW)
    scene = make_scene(random)
    text = state(scene) if random.random() < 0.3 else write_caption(scene, random)
    other = another_wording(text, scene, random)
    one, another = split_words(text), split_words(other)
    if random.random() < _RENAMED:
        thing = scene.things[int(random.integers(len(scene.things)))]
        old = (thing.shape, thing.colour)[int(random.integers(2))]
        new = _UNKNOWN[int(random.integers(len(_UNKNOWN)))]
        one, another = ([new if w == old else w for w in words] for words in (one, another))
    ids, names = _ids(one)
    return ids, _ids(another, names)[0]


def _ids(words: list[str], names: list[str] | None = None) -> tuple[list[int], list[str]]:
    """Return the numbers of words, and the words that are not known; too many of those are left out."""
    names = list(names or ())
    ids: list[int] = []
    for word in words:
        known = _ID.get(word.lower())
        if known is None:
            if word not in names:
                names.append(word)
            known = _FIRST_NAME + names.index(word)
            if known >= _FIRST_WORD:
                continue
        ids.append(known)
    return ids, names


def _word(number: int, names: list[str]) -> str:
    if number >= _FIRST_WORD:
        return _WORDS[number - _FIRST_WORD]
    place = number - _FIRST_NAME
    return names[place] if 0 <= place < len(names) else ""


def _padded(rows: list[list[int]]) -> Int64[Tensor, "B S"]:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=_PAD)


def _drawn(likely: np.ndarray, share: float, temperature: float) -> int:
    """Return the word that lies at a share of all probabilities, sharpened or flattened by the temperature."""
    if temperature == 0:
        return int(likely.argmax())
    weights = (likely / likely.max()) ** (1 / temperature)
    weights[weights < _LEAST_WEIGHT] = 0
    ends = weights.cumsum()
    return int(np.searchsorted(ends, share * ends[-1], side="right"))
