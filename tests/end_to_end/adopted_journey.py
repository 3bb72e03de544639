"""A tiny journey from ready-made shards: its data stages, and training with any objective below them."""

import json
import shutil
from pathlib import Path

import torch
import yaml
from made.packed import Packed
from made.ready import Sample, write_ready
from towers.tiny import COLOURS, TINY, picture, write_tar
from training.runs import train_here

from neuclip.journey import identify, run_journey
from neuclip.recipe import load_recipe
from neuclip.training.worker import threads_of_a_rank

PACKED = ("acquire", "curate", "caption", "shard", "index")
DATA_STAGES = ("acquire", "score", *PACKED[1:])
BELOW = ("train", "select", "evaluate", "publish")
NAMES = list(COLOURS)
_PAIRS = 140


def make_inputs(base: Path) -> Path:
    """Write shards, an evaluation set and the recipe; return the recipe's path."""
    samples = [
        Sample(n, image=picture(NAMES[n % len(NAMES)], seed=n, kind="PNG")) for n in range(_PAIRS)
    ]
    write_ready(base / "ready", "00000", samples)
    members = [
        member
        for n, colour in enumerate(NAMES * 3)
        for member in [
            (f"s{n:07d}.png", picture(colour, seed=900 + n, kind="PNG")),
            (f"s{n:07d}.cls", str(NAMES.index(colour)).encode()),
        ]
    ]
    folder = base / "wds_colours"
    write_tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(NAMES))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}")
    recipe = {
        "root": str(base / "lake"),
        "acquire": {"adopt": str(base / "ready"), "processes": 1},
        "curate": {"decontaminate": None},
        "shard": {"samples_per_shard": 40, "selection_share": 0.1},
        "train": {
            "model": {"architecture": TINY},
            "objective": {"name": "openclip"},
            "global_batch": 16,
            "streams": 4,
            "epochs": 2,
            "lr": 1e-3,
            "warmup_steps": 2,
            "save_every_steps": 4,
            "keep_checkpoints": 9,
            "log_every_steps": 1,
            "probe": None,
            "loader": {"workers": 0},
            "launch": {"processes": 1, "max_restarts": 0},
        },
        "evaluate": {"sets": [str(folder)]},
        "publish": {"name": "colours", "license": "mit", "sample_grid": 4},
    }
    path = base / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run_journey(load_recipe(str(path)), stages=DATA_STAGES)
    return path


class Trial:
    """The recipe with changes, at a root of its own that has the data stages."""

    def __init__(self, recipe_path: Path, root: Path, **changes):
        made_at = Path(load_recipe(str(recipe_path)).root)
        if not root.exists():
            for stage in DATA_STAGES:
                shutil.copytree(made_at / stage, root / stage)
        fields = {f"train.{name}": value for name, value in changes.items()}
        self.recipe = load_recipe(str(recipe_path), {"root": str(root), **fields})

    def uri(self, stage: str) -> Path:
        return Path(identify(self.recipe)[stage].uri)

    def run(self, *stages: str):
        return run_journey(self.recipe, stages=stages or BELOW)

    def train_here(self, folder: Path) -> None:
        """Train in this process with the threads of a rank, into another folder."""
        packed = Packed(*(str(self.uri(stage)) for stage in PACKED))
        before = torch.get_num_threads()
        torch.set_num_threads(threads_of_a_rank(self.recipe.train))
        try:
            train_here(folder, packed, self.recipe.train, seed=self.recipe.seed)
        finally:
            torch.set_num_threads(before)

    @property
    def model(self) -> Path:
        return self.uri("publish") / "model"

    def scores(self) -> dict:
        return json.loads((self.uri("evaluate") / "scores.json").read_text())[0]
