"""Subset files. Oracle: Python's own integers and sets; numpy's file format."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made.acquired import Pair, commit_acquired

from neuclip.curate.config import CurateConfig
from neuclip.curate.run import run_curate
from neuclip.curate.uids import DTYPE, SubsetFile, write_subset
from neuclip.foundation.errors import DataError
from neuclip.foundation.ids import as_integers
from neuclip.foundation.progress import silent
from neuclip.stages.manifest import read_manifest
from neuclip.stages.workspace import StageIdentity, commit_stage

# Few values for each half, so that first halves are equal often.
uids = st.tuples(
    st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.sampled_from([0, 5, 2**64 - 1, 2**63])
).map(lambda halves: f"{halves[0]:016x}{halves[1]:016x}")


def halves(texts):
    return as_integers("".join(texts))


def save(path, texts):
    pairs = sorted((int(text[:16], 16), int(text[16:], 16)) for text in texts)
    np.save(path, np.array(pairs, DTYPE))


@given(listed=st.lists(uids, max_size=12), asked=st.lists(uids, max_size=12))
def test_membership_is_that_of_a_set(tmp_path_factory, listed, asked):
    path = tmp_path_factory.getbasetemp() / "listed.npy"
    save(path, listed)
    subset = SubsetFile(str(path))
    assert subset.contains(halves(asked)).tolist() == [uid in set(listed) for uid in asked]
    assert len(subset) == len(set(listed))
    assert subset.num_repeats == len(listed) - len(set(listed))


@given(parts=st.lists(st.lists(uids, max_size=6), max_size=4))
def test_what_is_written_is_sorted_as_datacomps_tools_sort(tmp_path_factory, parts):
    path = tmp_path_factory.getbasetemp() / "written.npy"
    count = write_subset(path, [halves(part) for part in parts])
    every = sorted(uid for part in parts for uid in part)
    assert count == len(every)
    written = np.load(path, allow_pickle=False)
    assert written.dtype == DTYPE
    assert [f"{first:016x}{last:016x}" for first, last in written.tolist()] == every
    np.testing.assert_array_equal(np.sort(written), written)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([(2, 1), (1, 9)], DTYPE), r"not sorted.*0002.*at place 0"),
        (np.array([(1, 9), (1, 8)], DTYPE), "not sorted"),
        (np.array([1, 2], np.uint64), "holds uint64"),
        (np.array(["a"], dtype=object), "cannot be read"),
        (np.zeros((2, 2), DTYPE), r"shape \(2, 2\)"),
    ],
)
def test_a_file_that_is_no_subset_is_refused(tmp_path, array, message):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        SubsetFile(str(tmp_path / "bad.npy"))


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "cut.npy"
    save(path, [f"{n:032x}" for n in range(100)])
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="cannot be read"):
        SubsetFile(str(path))


def test_allow_and_deny_lists(tmp_path):
    pairs = [Pair(n, {"alt": [f"picture {n}"]}) for n in range(6)]
    allowed = [pair.uid for pair in pairs[:4]]
    save(tmp_path / "allow.npy", [*allowed, allowed[0], "f" * 32])
    save(tmp_path / "deny.npy", [pairs[1].uid, pairs[5].uid])
    rules = [
        {"kind": "uids", "name": "allow", "file": str(tmp_path / "allow.npy")},
        {"kind": "uids", "name": "deny", "file": str(tmp_path / "deny.npy"), "listed": "drop"},
    ]
    acquire_uri = commit_acquired(tmp_path, [pairs[:3], pairs[3:]])
    identity = StageIdentity("curate", 1, "k", {}, {}, str(tmp_path))
    commit_stage(
        identity,
        lambda w: run_curate(
            CurateConfig.model_validate({"rules": rules}),
            acquire_uri=acquire_uri,
            workspace=w,
            progress=silent,
        ),
    )
    found = pq.read_table(f"{identity.uri}/verdicts.parquet").to_pylist()
    assert [row["reason"] for row in found] == [None, "deny", None, None, "allow", "allow"]
    summary = read_manifest(identity.uri).summary
    assert summary["uid_lists"] == {
        "allow": {"uids": 5, "repeats": 1, "not_in_pool": 1},
        "deny": {"uids": 2, "repeats": 0, "not_in_pool": 0},
    }
