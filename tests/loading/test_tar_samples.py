import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_iterator

from neuclip.foundation.errors import DataError, IntegrityError
from neuclip.loading.tar_samples import SUFFIXES, read_samples


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


TWO = [("s0.jpg", b"J0"), ("s0.txt", b"a cat"), ("s1.JPG", b"J1"), ("s1.cls", b"3")]


def test_members_are_grouped_by_key(tmp_path):
    samples = list(read_samples(write_tar(tmp_path / "a.tar", TWO)))
    assert [(s.key, s.parts) for s in samples] == [
        ("s0", {"jpg": b"J0", "txt": b"a cat"}),
        ("s1", {"jpg": b"J1", "cls": b"3"}),
    ]
    assert [s.image() for s in samples] == [b"J0", b"J1"]


def test_what_is_not_wanted_is_counted_and_never_handed_out(tmp_path):
    """A pickle that would run when it is loaded stays a name in a count."""
    members = [
        *TWO,
        ("s2.npz", b"x"),
        ("s2.pkl", b"cos\nsystem\n."),
        ("s2.seg.png", b"x"),
        ("README", b"x"),
    ]
    samples = list(read_samples(write_tar(tmp_path / "a.tar", members)))
    assert [s.key for s in samples] == ["s0", "s1", "s2"]
    assert (samples[2].parts, samples[2].others) == ({}, ["npz", "pkl", "seg.png"])
    only_text = list(read_samples(tmp_path / "a.tar", suffixes=frozenset({"txt", "pkl"})))
    assert [s.parts for s in only_text] == [{"txt": b"a cat"}, {}, {}]
    assert [s.others for s in only_text] == [["jpg"], ["jpg", "cls"], ["npz", "pkl", "seg.png"]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["s0", "s1", "d.x/s0", "d/s1", "n01.7", "__meta__", "._s0", "d/._s0"]),
            st.sampled_from(["jpg", "JPG", "PNG", "cls", "x.cls", "seg.png", "npy", "", "txt"]),
        ),
        max_size=8,
        unique_by=lambda name: (name[0], name[1].lower()),
    )
)
def test_samples_are_webdatasets(tmp_path_factory, names):
    """Oracle: webdataset's own reading of the same tar; only hidden files make no sample here."""
    path = tmp_path_factory.mktemp("same") / "a.tar"
    names = sorted(names, key=lambda name: name[0])
    members = [(f"{stem}.{end}" if end else stem, b"%d" % n) for n, (stem, end) in enumerate(names)]
    write_tar(path, members)
    with path.open("rb") as stream:
        files = [
            {**found, "__url__": ""}
            for found in tar_file_iterator(stream)
            if not found["fname"].rpartition("/")[2].startswith(".")
        ]
    expected = []
    try:
        for sample in group_by_keys(files):
            kept = {name: v for name, v in sample.items() if not name.startswith("__")}
            expected.append((sample["__key__"], kept))
    except ValueError:  # a suffix comes twice: both refuse
        with pytest.raises(DataError, match="comes twice"):
            list(read_samples(path))
        return
    if len({key for key, _ in expected}) < len(expected):
        return  # a key that comes again later is another sample there and an error here
    found = list(read_samples(path))
    assert [sample.key for sample in found] == [key for key, _ in expected]
    for sample, (_, kept) in zip(found, expected, strict=True):
        assert sample.parts == {name: v for name, v in kept.items() if name in SUFFIXES}
        assert sorted(sample.others) == sorted(name for name in kept if name not in SUFFIXES)


@pytest.mark.parametrize("name", ["/etc/s.jpg", "../s.jpg", "a/../../s.txt"])
def test_names_that_leave_the_archive_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="leaves the archive"):
        list(read_samples(write_tar(tmp_path / "a.tar", [*TWO, (name, b"")])))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("s0.jpg")
        info.type = kind
        info.linkname = "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"s0\.jpg.*link"):
        list(read_samples(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "members",
    [
        [("a.txt", b"1"), ("a.txt", b"2")],
        [("a.txt", b"1"), ("b.txt", b"1"), ("a.jpg", b"2")],
        [("a.txt", b"1"), ("b.txt", b"1"), ("a.txt", b"2")],
    ],
)
def test_a_key_that_comes_twice_is_refused(tmp_path, members):
    with pytest.raises(DataError, match="comes twice or apart"):
        list(read_samples(write_tar(tmp_path / "a.tar", members)))


@pytest.mark.parametrize("cut", [512 * 8, 512 * 7 + 1, 512 * 7, 512 * 6 + 100, 512 * 5, 700, 1024])
def test_a_cut_tar_is_refused_wherever_it_is_cut(tmp_path, cut):
    """Each of the four members takes a block of header and one of content, so they end at 8 blocks."""
    path = write_tar(tmp_path / "a.tar", TWO)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match=r"a\.tar is not a whole tar.*last good member"):
        list(read_samples(path))


def test_the_last_good_member_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", TWO)
    path.write_bytes(path.read_bytes()[: 512 * 5])
    with pytest.raises(IntegrityError, match=r"last good member: s0\.txt"):
        list(read_samples(path))


def test_a_damaged_header_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", TWO)
    content = bytearray(path.read_bytes())
    content[512 * 4 + 150] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"damaged.*s0\.txt"):
        list(read_samples(path))


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(IntegrityError, match="not a whole tar"):
        list(read_samples(tmp_path / "a.tar"))


def test_an_empty_tar_has_no_samples(tmp_path):
    assert list(read_samples(write_tar(tmp_path / "a.tar", []))) == []


def test_long_names_and_folders_are_read(tmp_path):
    key = "folder/" + "k" * 180
    assert [s.key for s in read_samples(write_tar(tmp_path / "a.tar", [(key + ".txt", b"t")]))] == [
        key
    ]
