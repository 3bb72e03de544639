"""Oracle: tars that a stranger could write, what is read of each, and that nothing appears outside."""

import io
import tarfile
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made.acquired import png
from made.ready import Sample, add, write_ready, write_table, write_tar

from neuclip.acquire.config import AcquireConfig
from neuclip.adopt.account import account_for
from neuclip.adopt.shards import find_shards
from neuclip.adopt.tar import check_image, read_members

GOOD = png(1, (20, 10))


@pytest.fixture
def tar_of(tmp_path):
    """Write a tar with a function, between two good images; return its path."""

    def write(fill, format=tarfile.PAX_FORMAT):
        path = tmp_path / "t.tar"
        with tarfile.open(path, "w", format=format) as tar:
            add(tar, "first.png", GOOD)
            fill(tar)
            add(tar, "last.png", GOOD)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("bad.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "link"),
        ("bad.png", {"type": tarfile.LNKTYPE, "linkname": "first.png"}, "link"),
        ("bad.png", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, "device"),
        ("bad.png", {"type": tarfile.FIFOTYPE}, "device"),
        ("/tmp/bad.png", {}, "leaves the archive"),
        ("../../bad.png", {}, "leaves the archive"),
        ("a/../../bad.png", {}, "leaves the archive"),
    ],
)
def test_what_a_data_set_has_no_reason_to_hold_is_refused(tar_of, name, fields, why):
    members = read_members(tar_of(lambda tar: add(tar, name, **fields)))
    assert list(members.images) == ["first", "last"]
    assert [why in reason for reason in members.refused.values()] == [True]
    assert sum(members.problems.values()) == 1


def test_a_key_that_comes_twice_is_nobodys(tar_of):
    def fill(tar):
        for suffix in ("png", "PNG", "png"):
            add(tar, f"twice.{suffix}", GOOD)

    members = read_members(tar_of(fill))
    assert list(members.images) == ["first", "last"]
    assert members.refused == {"twice": "its key comes twice"}


def test_pickles_and_others_are_passed_over_and_counted(tar_of):
    payload = b"cos\nsystem\n(S'touch /tmp/neuclip-was-here'\ntR."

    def fill(tar):
        add(tar, "first.pkl", payload)
        add(tar, "first.pickle", payload)
        add(tar, "first.npy", payload)

    members = read_members(tar_of(fill))
    assert list(members.images) == ["first", "last"]
    assert {name.rpartition(".")[2] for name in members.problems} == {"pkl", "pickle", "npy"}
    assert not Path("/tmp/neuclip-was-here").exists()


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_lead_to_the_right_bytes(tar_of, format):
    name = "x" * 300
    path = tar_of(lambda tar: add(tar, f"{name}.png", b"its bytes"), format)
    member = read_members(path).images[name]
    assert path.read_bytes()[member.offset : member.offset + member.size] == b"its bytes"


def _raw_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148] = size, b"00000000000\0"
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


NEGATIVE = b"\xff" * 11 + b"\x00"  # base 256: -256
BACK = b"\xff" * 10 + b"\xfb\xff"  # -1025: to the member before, and so round and round
HUGE = b"77777777777\0"  # 8 GiB


@pytest.mark.parametrize(
    "block",
    [
        _raw_header(b"a.png", NEGATIVE),
        _raw_header(b"a.png", BACK),
        _raw_header(b"a.png", HUGE),
        _raw_header(b"x", HUGE, b"x"),
        _raw_header(b"x", NEGATIVE, b"x"),
        _raw_header(b"x", HUGE, b"L"),
        _raw_header(b"x", b"00000000000\0", b"L") * 5_000,
        b"garbage " * 64,
        b"",
    ],
    ids=[
        "size below zero",
        "size that leads back",
        "size beyond the file",
        "extended header of gigabytes",
        "extended header below zero",
        "long name of gigabytes",
        "long names in a row",
        "no header",
        "cut off",
    ],
)
def test_headers_that_lie_end_the_reading_at_once(tmp_path, block):
    """Oracle: the member before the lie is there, and nothing hangs or fills the memory."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        add(tar, "first.png", GOOD)
        end = tar.offset
    path = tmp_path / "t.tar"
    path.write_bytes(whole.getvalue()[:end] + block)
    start = time.monotonic()
    members = read_members(path)
    assert time.monotonic() - start < 5
    assert list(members.images) == ["first"]
    assert len(members.problems) == 1
    assert next(iter(members.problems)).startswith("the tar is cut off or damaged: ")


def test_a_compressed_tar_is_not_unpacked(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "a.png", GOOD)
    members = read_members(path)
    assert not members.images
    assert "cut off or damaged" in next(iter(members.problems))


def _png_header(width: int, height: int) -> bytes:
    content = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    data = b"IDAT" + zlib.compress(b"\0")
    chunks = [
        len(chunk[4:]).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
        for chunk in (content, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD, (20, 10)),
        (b"<!doctype html>", "not_an_image"),
        (b"", "not_an_image"),
        (b"GIF89a" + b"\0" * 40, "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 100, "undecodable"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "undecodable"),
        (_png_header(9_000, 9_000), "too_large"),
        (_png_header(20_000, 20_000), "too_large"),
    ],
)
def test_an_image_has_a_sound_header_or_a_reason(content, expected):
    found = check_image(content)
    assert (found if isinstance(found[0], int) else found[0]) == expected


def test_nothing_of_a_hostile_tar_appears_on_disk(adopt, tmp_path):
    samples = [Sample(number) for number in range(4)]
    folder = tmp_path / "ready"
    folder.mkdir()
    write_tar(folder / "00000.tar", samples[:2])
    with tarfile.open(folder / "00000.tar", "a") as tar:
        add(tar, f"../{samples[2].key}.png", samples[2].image)
        add(tar, f"{samples[3].key}.png", type=tarfile.SYMTYPE, linkname=f"{samples[0].key}.png")
    write_table(folder, "00000", samples)
    adopted = adopt(folder)
    assert adopted.reasons() == [None, None, "missing_image", "missing_image"]
    assert "link" in adopted.rows()[3]["detail"]
    assert not list(tmp_path.rglob("*.png"))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_tar_still_gives_every_row_an_outcome(tmp_path_factory, data):
    """Oracle: rows = successes + failures, and a success reads as many bytes as its member has."""
    folder = tmp_path_factory.mktemp("damaged")
    tar = write_ready(folder / "in", "00000", [Sample(number) for number in range(3)])
    content = bytearray(tar.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    tar.write_bytes(content[:length])
    (shard,) = find_shards(str(folder / "in"))
    (folder / "out").mkdir()
    config = AcquireConfig(adopt=str(folder / "in"))
    account = account_for(shard, config, folder=folder / "out", scratch=folder)
    account.ledger.check("the damaged shard")
    assert account.ledger.entered == 3
