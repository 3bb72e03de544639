"""Oracle: imagehash on pictures without fine structure, Pillow for the small picture, counts of decoded images."""

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made.acquired import Pair, commit_acquired
from made.scenes import file_of, scene
from PIL import Image

from neuclip.curate.pictures import PICTURE_BYTES
from neuclip.curate.scores import PHash
from neuclip.foundation.progress import silent
from neuclip.scoring import phash
from neuclip.scoring.pool_scores import run_scores
from neuclip.stages.ledger import make_ledger
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import Outcome, StageIdentity, commit_stage


def score(root, partitions, key="acquired", name="phash"):
    uri = commit_acquired(root, partitions, key)
    return run_scores(
        [PHash(kind="phash", name=name)], root=str(root), acquire_uri=uri, progress=silent
    )[0]


def test_rows_are_aligned_and_those_without_an_image_are_null(tmp_path, partitions):
    found = score(tmp_path, partitions)
    assert found.columns == ("phash",)
    for pairs, folder in zip(partitions, found.folders, strict=True):
        rows = pq.read_table(f"{folder}/scores.parquet")
        assert rows.schema.field("phash").type == "uint64"
        hashes, pictures = (np.load(f"{folder}/{name}.npy") for name in ("hashes", "pictures"))
        assert (hashes.shape, pictures.shape) == ((len(pairs), 5), (len(pairs), PICTURE_BYTES))
        for pair, row, several, picture in zip(
            pairs, rows.to_pylist(), hashes, pictures, strict=True
        ):
            assert row["uid"] == pair.uid
            if pair.number in (20, 21):
                assert row["phash"] is None
                assert not several.any()
                assert not picture.any()
            else:
                assert row["phash"] == several[0] != 0
    first, second = (read_manifest(folder).ledger for folder in found.folders)
    assert first.dropped == {"not_acquired": 1, "undecodable_image": 1}
    assert second.dropped == {}


def test_the_hash_is_the_librarys_but_for_the_ripple():
    """The ripple may turn bits of weak frequencies: a third of what lies between different pictures."""
    ours, theirs = [], []
    for seed in range(40):
        image = scene(seed)
        ours.append(int(phash.describe(file_of(image))[0][0]))
        bits = imagehash.phash(image).hash.ravel()
        theirs.append(int("".join("1" if bit else "0" for bit in bits), 2))
    same = [(a ^ b).bit_count() for a, b in zip(ours, theirs, strict=True)]
    other = [(a ^ b).bit_count() for a, b in zip(ours, theirs[1:], strict=False)]
    assert np.mean(same) < 14
    assert np.mean(other) > 22


def test_the_picture_is_the_images_luma_and_chroma():
    image = scene(3)
    picture = phash.describe(file_of(image))[1]
    luma, cb, cr = picture[:1024], picture[1024:1280], picture[1280:]
    for plane, px, channel in ((luma, 32, 0), (cb, 16, 1), (cr, 16, 2)):
        expected = np.asarray(image.convert("YCbCr").resize((px, px), Image.Resampling.BOX))
        difference = np.abs(plane.reshape(px, px).astype(int) - expected[:, :, channel])
        assert difference.mean() < 4


def test_what_is_there_is_not_decoded_again(tmp_path, partitions, monkeypatch):
    decoded = []
    decode = phash.decode_rgb
    monkeypatch.setattr(phash, "decode_rgb", lambda c: decoded.append(len(c)) or decode(c))
    first = score(tmp_path, partitions)
    assert len(decoded) == 12  # one of the 13 pairs never came
    assert score(tmp_path, partitions) == first
    assert len(decoded) == 12
    new = Pair(50, {"alt": ["new"]}, content=file_of(scene(50)))
    commit_acquired(tmp_path, [[new]], key="more")
    parts = ["acquired-part0", "acquired-part1", "more-part0"]
    longer = StageIdentity("acquire", 1, "longer", {}, {}, str(tmp_path))

    def list_all(workspace):
        tables = [
            pq.read_table(tmp_path / "acquire" / key / "partitions.parquet")
            for key in ("acquired", "more")
        ]
        pq.write_table(pa.concat_tables(tables), workspace.output / "partitions.parquet")
        return Outcome(make_ledger(14, 14, {}), parts=parts)

    commit_stage(longer, list_all)
    found = run_scores(
        [PHash(kind="phash", name="phash")],
        root=str(tmp_path),
        acquire_uri=longer.uri,
        progress=silent,
    )[0]
    assert found.folders[:2] == first.folders
    assert len(found.folders) == 3
    assert len(decoded) == 13


def test_settings_and_partitions_are_in_the_key_and_batch_sizes_are_not(tmp_path, partitions):
    first = score(tmp_path, partitions[:1])
    assert not set(first.folders) & set(score(tmp_path, partitions[:1], name="other").folders)
    manifest = read_manifest(first.folders[0])
    assert manifest.section == {"kind": "phash", "name": "phash"}
    assert manifest.stage == "score"
    assert manifest.inputs["partition"] == "acquired-part0"


def test_a_partition_that_is_cut_off_is_refused(tmp_path, partitions):
    uri = commit_acquired(tmp_path, partitions)
    tar = tmp_path / "acquire" / "parts" / "acquired-part0" / "images.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(Exception, match="has 600 bytes"):
        run_scores(
            [PHash(kind="phash", name="phash")],
            root=str(tmp_path),
            acquire_uri=uri,
            progress=silent,
        )
