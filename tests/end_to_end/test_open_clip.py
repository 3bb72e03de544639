"""Oracle: open_clip itself: its trainer reads our shards, and its own scoring gives our scores."""

import collections
import gc
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from end_to_end import open_clip_trainer
from PIL import Image

from neuclip.captions.files import text_parts
from neuclip.loading.evaluation_sets import read_set
from neuclip.stages.manifest import read_manifest
from neuclip.towers.encode import encode_images, encode_texts
from neuclip.towers.folder import load_towers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BATCH = 32


@pytest.fixture
def trained_with(journey, tmp_path):
    """The log of open_clip's trainer after one epoch over our training shards, from our published weights."""
    shards = sorted(journey.root.glob("shard/parts/*/shard-*.tar"))
    samples = read_manifest(journey.uri("index")).summary["samples"]
    batch = max(size for size in range(1, BATCH + 1) if samples % size == 0)
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", open_clip_trainer.__file__),
            *("--model", f"local-dir:{journey.result['model']}"),
            *("--dataset-type", "webdataset"),
            *("--train-data", "::".join(map(str, shards))),
            *("--train-num-samples", str(samples)),
            *("--batch-size", str(batch), "--epochs", "1", "--workers", "1"),
            *("--lr", "1e-5", "--warmup", "1", "--precision", "fp32", "--device", "cpu"),
            *("--logs", str(tmp_path / "logs"), "--name", "ours", "--log-every-n-steps", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr, samples, batch


def test_its_trainer_takes_an_epoch_of_our_shards(trained_with, tmp_path):
    output, samples, batch = trained_with
    seen = [
        (int(done), int(whole))
        for done, whole in re.findall(r"Train Epoch: 0 \[\s*(\d+)/(\d+)", output)
    ]
    assert seen[-1] == (samples, samples)
    losses = [float(loss) for loss in re.findall(r"Contrastive_loss: ([\d.]+)", output)]
    assert len(seen) == samples // batch
    assert all(0 < loss < 20 for loss in losses)
    assert (tmp_path / "logs" / "ours" / "checkpoints" / "epoch_1.pt").is_file()
    print(f"open_clip trained on {seen[-1][0]} of {samples} samples, {len(seen)} steps")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves tars open
def test_its_loader_gives_every_sample_of_the_index_once(journey):
    """The data pipeline of open_clip's trainer, its captions held against the tables."""
    from open_clip_train.data import get_wds_dataset
    from open_clip_train.params import parse_args

    open_clip_trainer.without_end_records()
    members = pq.read_table(Path(journey.uri("shard")) / "members.parquet").to_pylist()
    uids = {row["uid"] for row in members if row["split"] == "train"}
    captions = [
        row
        for folder in text_parts(journey.uri("caption"))["alt"]
        for row in pq.read_table(Path(folder) / "texts.parquet").to_pylist()
    ]
    rows = [row for row in captions if row["uid"] in uids and row["k"] == 0]
    assert len(rows) == len(uids)
    shards = sorted(journey.root.glob("shard/parts/*/shard-*.tar"))
    batch = max(size for size in range(1, BATCH + 1) if len(rows) % size == 0)
    arguments = parse_args(
        [
            *("--train-data", "::".join(map(str, shards))),
            *("--train-num-samples", str(len(rows))),
            *("--batch-size", str(batch), "--workers", "0"),
        ]
    )
    arguments.world_size = 1
    _, preprocess, _ = open_clip.create_model_and_transforms(f"local-dir:{journey.result['model']}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{journey.result['model']}")
    data = get_wds_dataset(arguments, preprocess, is_train=True, tokenizer=tokenize)
    found = collections.Counter(
        tuple(tokens.tolist()) for _, texts in data.dataloader for tokens in texts
    )
    expected = collections.Counter(tuple(tokenize([row["text"]])[0].tolist()) for row in rows)
    del data
    gc.collect()  # here, where the warning of the open tars is expected
    assert found == expected


def test_its_own_scoring_gives_our_scores(journey):
    """open_clip's model, transform, tokenizer and classifier on the published folder."""
    folder = Path(journey.result["model"])
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    suite = read_set(journey.web.sets[0])
    contents, labels = _read(Path(suite.shard_uris[0]))
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(io.BytesIO(c))) for c in contents])
        images = model.encode_image(pixels, normalize=True)
        classes = open_clip.build_zero_shot_classifier(
            model,
            tokenize,
            classnames=list(suite.classnames),
            templates=[lambda c, t=t: t.replace("{c}", c) for t in suite.templates],
        )
        texts = model.encode_text(tokenize(list(suite.classnames)), normalize=True)
    right = int(((images @ classes).argmax(dim=1) == torch.tensor(labels)).sum())
    row = next(row for row in journey.result["scores"] if row["set"] == suite.name)
    print(f"open_clip: {right} of {len(labels)} right; scores.json: {row['metrics']['acc1']}")
    assert right == round(row["metrics"]["acc1"] * row["samples"])
    assert right / len(labels) == pytest.approx(row["metrics"]["acc1"], abs=1e-12)

    towers = load_towers(folder)
    ours, decoded = encode_images(towers, contents, batch_size=16)
    assert all(decoded)
    torch.testing.assert_close(ours, images, rtol=0, atol=1e-6)
    our_texts = encode_texts(towers, list(suite.classnames), batch_size=16)
    torch.testing.assert_close(our_texts, texts, rtol=0, atol=1e-6)


def test_the_config_names_no_file_of_a_network(journey):
    config = json.loads((Path(journey.result["model"]) / "open_clip_config.json").read_text())
    assert "hf_tokenizer_name" not in config["model_cfg"]["text_cfg"]


def _read(tar_path: Path) -> tuple[list[bytes], list[int]]:
    with tarfile.open(tar_path) as tar:
        parts = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    names = sorted(name for name in parts if name.endswith(".jpg"))
    return [parts[n] for n in names], [int(parts[n.replace(".jpg", ".cls")]) for n in names]
