"""What changes for a caption source made by a function, and for a rule over groups. Oracle: a copy with one."""

import pytest
from house.additions import use, with_changes

REVERSED = """
from typing import Literal
from neuclip.captions.derived import DerivedSource

class Reversed(DerivedSource):
    kind: Literal["reversed"] = "reversed"

    def reads(self):
        return ["alt"]

    def texts(self, of_pair):
        return [" ".join(reversed(text.split())) for text in of_pair.get("alt", [])]
"""


def test_a_caption_source_made_by_a_function_is_two_files(tmp_path):
    changed = {
        "captions/config.py": {
            "from neuclip.captions.sentences import Sentences\n": "from neuclip.captions.reversed import Reversed\n",
            "Sentences | Template": "Sentences | Template | Reversed",
        }
    }
    with_changes(tmp_path, new={"captions/reversed.py": REVERSED}, changed=changed)
    use(
        tmp_path,
        """
from made.acquired import some_pairs
from made.packed import pack
from neuclip.captions.config import CaptionConfig
from neuclip.index.side_files import count_texts

derive = [{"kind": "reversed", "source": "backwards"}]
packed = pack(Path(sys.argv[1]), [some_pairs(30)], caption=CaptionConfig(derive=derive))
assert count_texts(packed.index)["backwards"] == 30
""",
    )


@pytest.mark.slow
def test_a_rule_over_groups_is_two_files(tmp_path):
    changed = {
        "curate/rules.py": {
            "GroupRule = DuplicatePairs": "GroupRule = DuplicatePairs | OnePerHost",
            "class DuplicatePairs(OverGroups):\n": """class OnePerHost(OverGroups):
    kind: Literal["one_per_host"] = "one_per_host"


class DuplicatePairs(OverGroups):
""",
        },
        "curate/groups.py": {
            "    GroupRule,\n": "    OnePerHost,\n",
            "        case DuplicatePairs():\n": """        case OnePerHost():
            _gather(pool, alive, connection, key="split_part(url, '/', 3)", best=[])
            return Dropped(_all_but_best(connection))
        case DuplicatePairs():
""",
        },
    }
    with_changes(tmp_path, new={}, changed=changed)
    use(
        tmp_path,
        """
from made.acquired import Pair, commit_acquired
from made.packed import pack
from neuclip.curate.config import CurateConfig
from neuclip.stages.manifest import read_manifest

pairs = [Pair(n, {"alt": [f"number {n}"]}, url=f"http://host{n % 3}/{n}.png") for n in range(12)]
config = CurateConfig.model_validate({"rules": [{"kind": "one_per_host"}]})
packed = pack(Path(sys.argv[1]), [pairs], curate=config)
assert read_manifest(packed.curate).ledger.dropped == {"one_per_host": 9}
""",
    )


@pytest.mark.slow
def test_a_kind_of_evaluation_set_is_one_file(tmp_path):
    new = {
        "evaluation/kinds/any_of.py": """
import numpy as np

from neuclip.evaluation.kinds.classification import Classification
from neuclip.evaluation.kinds.kind import mean
from neuclip.evaluation.zero_shot import class_features, nearest_classes


class AnyOf(Classification):
    name = dataset_type = "any_of"

    def metrics(self, suite):
        return ["hit_rate"]

    def wrong(self, sample, suite):
        return None if sample.parts["cls"].split() else ("no_label", sample.key)

    def columns(self, given):
        labels = [set(map(int, target.split())) for target in given.targets("cls")]
        suite = given.suite
        classes = class_features(given.towers, suite.classnames, suite.templates, batch_size=given.batch_size)
        _, best = nearest_classes(given.features, classes, count=1)
        return {"is_hit": np.array([int(label) in own for label, own in zip(best, labels, strict=True)])}

    def measure(self, columns, weights):
        return {"hit_rate": mean(columns["is_hit"], weights)}

    def chance(self, given, metric):
        labels = [target.split() for target in given.targets("cls")]
        return sum(map(len, labels)) / len(labels) / len(given.suite.classnames)
"""
    }
    changed = {
        "evaluation/kinds/known.py": {
            "KINDS: tuple[Kind, ...] = (\n": """from neuclip.evaluation.kinds.any_of import AnyOf

KINDS: tuple[Kind, ...] = (
    AnyOf(),
""",
        }
    }
    with_changes(tmp_path, new=new, changed=changed)
    use(
        tmp_path,
        """
from neuclip.evaluation.score import score_set
from neuclip.loading.evaluation_sets import read_set
from towers.tiny import COLOURS, picture, tiny_towers, train_a_little, write_tar

folder = Path(sys.argv[1], "wds_many")
names = list(COLOURS)
members = []
for n, colour in enumerate(names):
    members += [(f"s{n}.png", picture(colour, seed=n)), (f"s{n}.cls", f"{n} {(n + 1) % len(names)}".encode())]
members += [("empty.png", picture(names[0], seed=99)), ("empty.cls", b" ")]
write_tar(folder / "test" / "0.tar", members)
(folder / "test" / "nshards.txt").write_text("1")
(folder / "dataset_type.txt").write_text("any_of")
(folder / "classnames.txt").write_text(chr(10).join(names))
(folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}")
towers = train_a_little(tiny_towers())
row, columns, ledger = score_set(towers, read_set(str(folder)), batch_size=8, model_sha256="x")
assert (row.kind, row.main_metric, row.samples) == ("any_of", "hit_rate", len(names))
assert row.chance == 2 / len(names) < row.main_value
assert columns["is_hit"].mean() == row.main_value <= row.intervals["hit_rate"].high
assert ledger.dropped == {"no_cls": 1}
""",
    )


WORD_LENGTHS = """
from typing import Literal
from neuclip.towers.text_kind import TextKind

class WordLengths(TextKind):
    kind: Literal["word_lengths"]
    longest: int = 12

    def build(self, embed_dim):
        from torch import nn

        return nn.EmbeddingBag(self.longest + 1, embed_dim)

    def tokens_of(self, texts):
        import torch

        lengths = [[min(len(word), self.longest) for word in text.split()] for text in texts]
        return torch.tensor([(found + [0] * 8)[:8] for found in lengths])
"""


@pytest.mark.slow
def test_a_text_tower_is_two_files(tmp_path):
    """A tower that reads how long the words are, trained through the stage and read back."""
    changed = {
        "towers/config.py": {
            "from neuclip.towers.outside import": "from neuclip.towers.word_lengths import WordLengths\n"
            "from neuclip.towers.outside import",
            "HuggingFaceText | CachedFeatures": "HuggingFaceText | CachedFeatures | WordLengths",
        }
    }
    with_changes(tmp_path, new={"towers/word_lengths.py": WORD_LENGTHS}, changed=changed)
    use(
        tmp_path,
        """
import torch
from safetensors.torch import load_file
from training.runs import ARCHITECTURE, make_config, make_packed, train_here
from neuclip.towers.folder import load_towers

place = Path(sys.argv[1])
model = {"architecture": ARCHITECTURE, "text": {"kind": "word_lengths", "longest": 9}}
config = make_config(epochs=1, probe=None, model=model, loader={"workers": 0})
train_here(place / "run", make_packed(place / "lake"), config)
folder = max((place / "run" / "checkpoints").glob("step-*"))
towers = load_towers(folder)
weights = load_file(folder / "text_adapter.safetensors")["weight"]
tokens = towers.tokenize(["three words here"])
assert tokens.tolist() == [[5, 5, 4, 0, 0, 0, 0, 0]]
with torch.no_grad():
    expected = weights[tokens[0]].mean(0)
    torch.testing.assert_close(towers.encode_text(tokens)[0], expected)
""",
    )
