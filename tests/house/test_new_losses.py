"""What changes for a term beside the objective, and for a policy of text tokens. Oracle: a copy with one."""

import pytest
from house.additions import use, with_changes

SPREAD = '''
"""Keeps the raw embeddings of an image view apart: the mean cosine of different samples."""

from torch import nn
from torch.nn.functional import normalize

import torch

from neuclip.objectives.terms.heads import new_weights
from neuclip.objectives.terms.term import States, Term, TermResult


class Spread(Term):
    def __init__(self, config, name, about):
        super().__init__(config, name, about)
        self.view = config.view
        self.map = new_weights(lambda: nn.Linear(about.feature_dim, 8), seed=about.seed, name=name)
        self._of = config.states

    @property
    def states(self):
        return {self._of: States()}

    def forward(self, encoded, temperature):
        found = normalize(self.map(encoded.images[self.view].raw), dim=1)
        states = encoded.texts[self._of].states
        return TermResult((found @ found.T).mean(), {"states": states.detach().square().mean()})
'''
SECTION = """class SpreadConfig(TermSection):
    name: Literal["spread"] = Field(default="spread", description="which term this section is of")
    view: str = Field(default="main", description="view of images")
    states: str = Field(default="main", description="view of texts")

    def reads(self, known: Views, name: str) -> Views:
        return Views([self.view], [self.states])


"""
RUN = """
import torch
from training.runs import make_config, make_packed, metrics, train_here

packed = make_packed(Path(sys.argv[1]) / "lake")
"""


@pytest.mark.slow
def test_a_term_is_its_module_and_its_section(tmp_path):
    changed = {
        "objectives/terms/config.py": {
            "TermConfig = Annotated": SECTION + "TermConfig = Annotated",
            "    MultiViewConfig |": "    SpreadConfig | MultiViewConfig |",
        }
    }
    with_changes(tmp_path, new={"objectives/terms/spread.py": SPREAD}, changed=changed)
    use(
        tmp_path,
        RUN
        + """
settings = {"probe": None, "keep_best": 0, "epochs": 1, "loader": {"workers": 0}}
config = make_config(**settings, terms={"apart": {"name": "spread", "weight": 0.1}})
folder = Path(sys.argv[1]) / "run"
train_here(folder, packed, config)
lines = metrics(folder)
assert all({"term_apart_loss", "term_apart_states", "objective_loss"} <= line.keys() for line in lines)
assert abs(lines[-1]["loss"] - lines[-1]["objective_loss"] - 0.1 * lines[-1]["term_apart_loss"]) < 1e-6
from neuclip.checkpoint.state import load_state
files = sorted(folder.glob("checkpoints/*/state.safetensors"))
states = [load_state(path)["terms"]["apart"]["map.weight"] for path in files]
assert not torch.equal(states[0], states[-1])
""",
    )


BACKWARDS = '''
"""Reverses the words of a text now and then, by a keyed draw."""

from neuclip.tokens.texts.policy import TextTokens


class Backwards(TextTokens):
    def __call__(self, texts, visits, view):
        turned = [visit.draws("backwards", view).random() < self.config.share for visit in visits]
        return self.tokenize(
            [" ".join(text.split()[::-1]) if turn else text for text, turn in zip(texts, turned)]
        )
'''


@pytest.mark.slow
def test_a_policy_of_text_tokens_is_its_module_and_its_section(tmp_path):
    section = """class BackwardsConfig(Section):
    name: Literal["backwards"] = "backwards"
    share: float = 0.5


"""
    changed = {
        "tokens/config.py": {
            "TextTokensConfig = Annotated": section + "TextTokensConfig = Annotated",
            "TruncateConfig | RandomTextConfig": "BackwardsConfig | TruncateConfig | RandomTextConfig",
        }
    }
    with_changes(tmp_path, new={"tokens/texts/backwards.py": BACKWARDS}, changed=changed)
    use(
        tmp_path,
        RUN
        + """
from neuclip.index.reader import read_samples
from neuclip.towers.model import create_towers
from neuclip.training.parts import training_samples

def samples_of(**tokens):
    config = make_config(text_tokens=tokens)
    return training_samples(config, read_samples(packed.index), create_towers(config.model, seed=0),
                            shard_uri=packed.shard, index_uri=packed.index, seed=5)

pairs = [(epoch, sample_id) for epoch in range(3) for sample_id in range(20)]
plain, off, half, whole = (samples_of(**tokens).__getitems__(pairs).texts["main"] for tokens in (
    {"name": "truncate"}, {"name": "backwards", "share": 0}, {"name": "backwards"}, {"name": "backwards", "share": 1}))
assert torch.equal(plain, off)
turned = (half != plain).any(dim=1)
assert 15 < turned.sum() < 45
assert torch.equal(half[turned], whole[turned])
# A draw depends neither on the neighbours in the batch nor on the order.
alone = samples_of(name="backwards").__getitems__(pairs[7:8]).texts["main"]
assert torch.equal(alone[0], half[7])
""",
    )
