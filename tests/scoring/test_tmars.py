"""Oracle: text drawn by Pillow at a known place; open_clip on the masked picture."""

import io
import sys

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from made.acquired import Pair, commit_acquired
from made.scenes import file_of
from PIL import Image, ImageDraw, ImageFont

from neuclip.acquired.images import decode_rgb
from neuclip.curate.scores import ClipScore, TMars
from neuclip.foundation.errors import ConfigError
from neuclip.foundation.progress import silent
from neuclip.scoring.pool_scores import run_scores
from neuclip.scoring.tmars import mask_text, text_detector
from neuclip.stages.manifest import read_manifest

BOX = (40, 90, 260, 150)
GROUND = (200, 60, 40)


def sign(text="GREEN TEA 50", ground=GROUND):
    image = Image.new("RGB", (300, 240), ground)
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 170, 80, 230), fill=(30, 60, 220))
    if text:
        draw.text((BOX[0], BOX[1]), text, fill="white", font=ImageFont.load_default(size=32))
    return image


@pytest.fixture(scope="module")
def detect():
    return text_detector()


def test_text_is_painted_over_in_the_colour_around_it(detect):
    content, share = mask_text(file_of(sign()), detect)
    pixels = np.asarray(decode_rgb(content)).astype(int)
    assert (np.abs(pixels - np.array(GROUND)).max(axis=2) < 30)[: BOX[3] + 15].mean() > 0.999
    without = np.asarray(sign(text="")).astype(int)
    assert (pixels[170:] == without[170:]).all()
    assert 0.05 < share < 0.35


def test_what_has_no_text_or_does_not_decode_stays_as_it_is(detect):
    plain = file_of(sign(text=""))
    assert mask_text(plain, detect) == (plain, 0.0)
    assert mask_text(b"no picture", detect) == (b"no picture", 0.0)


def test_a_picture_that_is_all_text_becomes_its_mean():
    """Oracle: a detector that finds everything."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    whole = np.array([[0, 0], [29, 0], [29, 19], [0, 19]], np.float32)
    content, share = mask_text(file_of(image), lambda _: [whole])
    pixels = np.asarray(decode_rgb(content))
    assert share == 1
    assert (pixels == np.rint(np.asarray(image).mean(axis=(0, 1)))).all()


def test_the_score_is_open_clips_of_the_masked_picture(tmp_path, model, detect):
    pairs = [
        Pair(0, {"alt": ["green tea"]}, content=file_of(sign())),
        Pair(1, {"alt": ["a blue ball"]}, content=file_of(sign(text=""))),
        Pair(2, {"alt": ["gone"]}, failed="http_404"),
        Pair(3, {"alt": ["broken"]}, content=b"broken"),
        Pair(4, {"rewrite": ["green tea"]}, content=file_of(sign())),
    ]
    uri = commit_acquired(tmp_path, [pairs])
    scores = [
        TMars(kind="tmars", model=str(model)),
        ClipScore(kind="clip_score", model=str(model)),
    ]
    masked, plain = run_scores(scores, root=str(tmp_path), acquire_uri=uri, progress=silent)
    assert masked.columns == ("tmars", "tmars_text_share")
    rows = pq.read_table(f"{masked.folders[0]}/scores.parquet").to_pylist()
    others = pq.read_table(f"{plain.folders[0]}/scores.parquet").to_pylist()
    network, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    tokens = open_clip.get_tokenizer(f"local-dir:{model}")(["green tea"])
    network.eval()
    content, share = mask_text(pairs[0].content, detect)
    with torch.no_grad():
        image = network.encode_image(
            transform(Image.open(io.BytesIO(content)))[None], normalize=True
        )
        expected = float(image @ network.encode_text(tokens, normalize=True).T)
    assert rows[0]["tmars"] == pytest.approx(expected, abs=1e-5)
    assert rows[0]["tmars_text_share"] == pytest.approx(share)
    assert abs(rows[0]["tmars"] - others[0]["clip_score"]) > 1e-4
    assert rows[1]["tmars"] == others[1]["clip_score"]
    assert rows[1]["tmars_text_share"] == 0
    assert [row["tmars"] is None for row in rows] == [False, False, True, True, True]
    assert [row["tmars_text_share"] is None for row in rows] == [False, False, True, True, True]
    ledger = read_manifest(masked.folders[0]).ledger
    assert ledger.dropped == {"not_acquired": 1, "undecodable_image": 1, "no_caption": 1}
    assert masked.record["text_detector"].startswith("rapidocr-onnxruntime 1.")


def test_without_the_detector_the_extra_is_named(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    uri = commit_acquired(tmp_path, [[Pair(0, {"alt": ["x"]})]])
    with pytest.raises(ConfigError, match=r"pip install neuclip\[tmars\]"):
        run_scores(
            [TMars(kind="tmars", model=str(model))],
            root=str(tmp_path),
            acquire_uri=uri,
            progress=silent,
        )
