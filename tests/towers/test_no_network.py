"""No model reaches a network: what names one is refused, and libraries run offline. Oracle: Python's audit events."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made.text_encoders import llama
from pydantic import ValidationError
from towers.tiny import TINY, tiny_towers

from neuclip.curate.scores import ClipScore
from neuclip.foundation.errors import ConfigError
from neuclip.scoring.clip import ClipModel
from neuclip.towers.config import ModelConfig, known_architectures
from neuclip.towers.files import CONFIG_FILE
from neuclip.towers.folder import load_towers, save_towers

HOSTILE = [
    ("text_cfg", {"hf_model_name": "roberta-base"}),
    ("text_cfg", {"hf_model_name": "org/model", "hf_model_pretrained": False}),
    ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}),
    ("text_cfg", {"hf_tokenizer_name": "t5", "tokenizer_kwargs": {"trust_remote_code": True}}),
    ("text_cfg", {"hf_model_name": ["roberta-base"]}),
    ("text_cfg", {"hf_hub_id": "org"}),
    ("text_cfg", {"HF_Model_Name": "roberta-base"}),
    ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}),
    ("text_cfg", {"tokenizer_kwargs": {"bpe_path": "vocabulary.gz"}}),
    ("text_cfg", {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}),
    ("text_cfg", {"pretrained": "openai"}),
    ("vision_cfg", {"timm_model_name": "hf-hub:timm/resnet18.a1_in1k"}),
    ("vision_cfg", {"timm_model_name": "hf_hub:timm/resnet18.a1_in1k"}),
    ("vision_cfg", {"timm_model_name": "HF-HUB:timm/resnet18.a1_in1k"}),
    ("vision_cfg", {"timm_model_name": "timm/resnet18.a1_in1k"}),
    ("vision_cfg", {"timm_model_name": "local-dir:/tmp"}),
    ("vision_cfg", {"timm_model_name": "local-dir:folder"}),
    ("vision_cfg", {"timm_model_name": "https://example.org/resnet18"}),
    ("vision_cfg", {"timm_model_name": "..\\resnet18"}),
    ("vision_cfg", {"timm_model_name": "test_resnet", "timm_model_pretrained": True}),
    ("vision_cfg", {"timm_model_name": "test_resnet", "timm_model_pretrained": "yes"}),
    ("vision_cfg", {"pretrained_cfg": {"hf_hub_id": "timm/resnet18"}}),
    ("vision_cfg", {"hf_model_name": "google/vit"}),
    ("multimodal_cfg", {"hf_model_name": "roberta-base"}),
    (None, {"pretrained": "laion2b_s34b_b79k"}),
    (None, {"hf_tokenizer_name": "bert-base-uncased"}),
    (None, {"text_cfg": "hf-hub:org/model"}),
    (None, {"vision_cfg": [{"timm_model_name": "hf-hub:org/model"}]}),
]


def hostile(part, change):
    return {**TINY, **change} if part is None else {**TINY, part: {**TINY.get(part, {}), **change}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_towers(tiny_towers(), folder)
    return folder


@pytest.mark.parametrize(("part", "change"), HOSTILE)
def test_what_names_a_hub_or_a_file_is_refused_wherever_a_configuration_enters(
    folder, part, change
):
    """A recipe's architecture, a folder of weights, and the model of a score, before any weight is read."""
    bad = hostile(part, change)
    with pytest.raises(ValidationError, match="network") as refused:
        ModelConfig(architecture=bad)
    assert any(field in str(refused.value) for field in change)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": bad, "preprocess_cfg": {}}))
    with pytest.raises(ConfigError, match="network"):
        load_towers(folder)
    with pytest.raises(ConfigError, match="network"):
        ClipModel(ClipScore(kind="clip_score", name="clip", model=str(folder)))


def parts_of_hubs(name):
    """Return the fields of a hub that an architecture names. Oracle: the text of open_clip's own file."""
    text = known_architectures()[name].read_text()
    return [field for field in ("hf_model_name", "hf_tokenizer_name") if field in text]


@pytest.mark.parametrize("name", sorted(known_architectures()))
def test_an_architecture_of_open_clip_is_refused_if_it_names_a_hubs_model(name):
    named = parts_of_hubs(name)
    if named:
        with pytest.raises(ValidationError, match=r"text_cfg\.hf_.*network.*give train\.model\."):
            ModelConfig(name=name)
        tokenizer = {"tokenizer": "folder"} if "hf_model_name" not in named else {}
        ModelConfig(name=name, text={"kind": "hugging_face", "folder": "folder"})
        if tokenizer:
            ModelConfig(name=name, **tokenizer)
        else:
            with pytest.raises(ValidationError, match=r"hf_.*give train\.model\.text"):
                ModelConfig(name=name, tokenizer="folder")
    else:
        ModelConfig(name=name)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("vit-b-32", "ViT-B-32"),
        ("VIT-B-32", "ViT-B-32"),
        ("rn50", "RN50"),
        ("Convnext_Base", "convnext_base"),
        ("VITAMIN-S", "ViTamin-S"),
        ("mobileclip-b", "MobileCLIP-B"),
    ],
)
def test_case_does_not_hide_a_name(written, meant):
    assert ModelConfig(name=written).name == meant
    with pytest.raises(ValidationError, match=f"Did you mean '{meant}'"):
        ModelConfig(name=f"{written}.")


CANARY = """
import os, sys
_WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "http.client.connect")
def _heard(event, arguments):
    if event in _WATCHED:
        with open(os.environ["CANARY"], "a") as file:
            file.write(f"{event} {arguments[1:]}\\n")
sys.addaudithook(_heard)
"""
"""As `sitecustomize` it is in every Python process, children too."""


@pytest.fixture
def watched(tmp_path):
    """Run a program in a Python whose connections are written down; return them, and what it printed."""
    (tmp_path / "sitecustomize.py").write_text(CANARY)
    heard = tmp_path / "heard"

    def run(program: str, *arguments: str) -> tuple[list[str], str]:
        nowhere = "http://127.0.0.1:9"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])]),
                "CANARY": str(heard),
                "HF_HUB_OFFLINE": "0",
                "TRANSFORMERS_OFFLINE": "0",
                "HF_HOME": str(tmp_path / "hub"),
                "HF_ENDPOINT": nowhere,
                "https_proxy": nowhere,
                "http_proxy": nowhere,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return heard.read_text().splitlines() if heard.exists() else [], done.stdout

    return run


def test_the_canary_hears_a_library_that_is_not_offline(watched):
    heard, _ = watched(
        "import huggingface_hub\n"
        "try: huggingface_hub.HfApi().model_info('org/model', timeout=1)\n"
        "except Exception: pass\n"
    )
    assert any("connect" in line for line in heard)


def test_offline_is_what_a_library_finds_whatever_is_inherited(watched):
    """The second lock: what slips through the first asks no one."""
    heard, printed = watched(
        "import neuclip, multiprocessing, os, subprocess, sys\n"
        "import huggingface_hub\n"
        "try: huggingface_hub.hf_hub_download('org/model', 'config.json')\n"
        "except Exception as error: print(type(error).__name__)\n"
        "program = 'import huggingface_hub.constants as c; print(c.HF_HUB_OFFLINE)'\n"
        "print(subprocess.check_output([sys.executable, '-c', program], text=True))\n"
    )
    assert heard == []
    assert printed.split() == ["LocalEntryNotFoundError", "True"]


@pytest.mark.slow
def test_towers_of_every_kind_are_built_without_a_question(watched):
    heard, printed = watched(
        "from towers.tiny import TINY\n"
        "from neuclip.towers.config import ModelConfig\n"
        "from neuclip.towers.model import create_towers\n"
        "timm = {'timm_model_pretrained': False, 'timm_pool': 'avg', 'timm_proj': 'linear', 'image_size': 32}\n"
        "visions = [TINY['vision_cfg'], {'layers': [1, 1, 1, 1], 'width': 16, 'image_size': 32}]\n"
        "visions += [{**timm, 'timm_model_name': n} for n in ('test_resnet', 'test_resnet.r160_in1k')]\n"
        "for vision in visions:\n"
        "    for custom in (False, True):\n"
        "        config = {**TINY, 'vision_cfg': vision, 'custom_text': custom}\n"
        "        towers = create_towers(ModelConfig(architecture=config), seed=0)\n"
        "        print(towers.tokenize(['a']).shape[1])\n"
    )
    assert heard == []
    assert printed.split() == ["16"] * 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "MobileCLIP-S1", "PE-Core-T-16-384"])
def test_named_architectures_are_built_without_a_question(watched, name):
    heard, printed = watched(
        "import sys\n"
        "from neuclip.towers.config import ModelConfig\n"
        "from neuclip.towers.model import create_towers\n"
        "print(create_towers(ModelConfig(name=sys.argv[1]), seed=0).embed_dim)\n",
        name,
    )
    assert heard == []
    assert int(printed)


OF_FOLDERS = [name for name in sorted(known_architectures()) if parts_of_hubs(name)]
A_FEW = ["ViT-B-16-SigLIP", "ViT-L-14-CLIPA", "roberta-ViT-B-32", "mt5-base-ViT-B-32"]
FROM_FOLDERS = """
import json, sys
from pathlib import Path
import open_clip, torch
from towers.hub_folders import text_folder, tokenizer_folder
from neuclip.towers.config import ModelConfig, known_architectures
from neuclip.towers.model import create_towers

build = open_clip.create_model


def without_weights(*arguments, **options):
    with torch.device("meta"):  # the shapes alone: some have billions of weights
        return build(*arguments, **options)


open_clip.create_model = without_weights
TYPES = {"xlm": "xlm-roberta", "mt5": "mt5", "nllb": "m2m_100"}
place = Path(sys.argv[1])
words = tokenizer_folder(place / "words")
for name in sys.argv[2:]:
    text_cfg = json.loads(known_architectures()[name].read_text())["text_cfg"]
    folders = {}
    if "hf_model_name" in text_cfg:
        kind = TYPES.get(name.split("-")[0], "roberta")
        folder = place / kind
        if not folder.exists():
            text_folder(folder, kind)
        folders["text"] = {"kind": "hugging_face", "folder": str(folder), "weights": "new"}
    elif "hf_tokenizer_name" in text_cfg:
        folders["tokenizer"] = str(words)
    towers = create_towers(ModelConfig(name=name, **folders), seed=0, device="meta")
    tokens = towers.tokenize(["a photo of a red thing"])
    assert tokens.shape == (1, text_cfg.get("context_length", 77)), name
    assert hasattr(towers.model, "visual") and towers.embed_dim, name
    print(name)
"""


@pytest.mark.slow
@pytest.mark.slow
def test_a_few_architectures_are_built_from_folders_without_a_question(watched, tmp_path):
    heard, printed = watched(FROM_FOLDERS, str(tmp_path), *A_FEW)
    assert heard == []
    assert printed.split() == A_FEW


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_architecture_is_built_without_a_question(watched, tmp_path):
    """The 49 that name a hub's tokenizer or text tower too, from local folders."""
    assert len(OF_FOLDERS) == 49
    names = sorted(known_architectures())
    heard, printed = watched(FROM_FOLDERS, str(tmp_path), *names)
    assert heard == []
    assert printed.split() == names


ENCODER = """
import sys
from pathlib import Path
from made.text_encoders import TEXTS, encoder
from neuclip.text_encoder.tune_config import TuneConfig
from neuclip.tuning.triples import Triples, TwoKinds
from neuclip.tuning.tune import Tuner
made = encoder(Path(sys.argv[1]))
config = TuneConfig(short="alt", long="long", steps=2, batch=2)
pairs = [TwoKinds([f"a {n}"], [f"a longer one {n}"]) for n in range(6)]
triples = Triples(pairs, seed=0, to_long="", to_short="")
Tuner(made, config, seed=0, state_uri=sys.argv[2]).run(triples, lambda *_, **__: None)
print(made.encode(TEXTS)[0].shape)
"""


@pytest.mark.slow
def test_tuning_and_encoding_texts_asks_no_one(watched, tmp_path):
    folder = llama(tmp_path / "model")
    heard, printed = watched(ENCODER, str(folder), str(tmp_path / "state"))
    assert heard == []
    assert "(4, 64)" in printed
