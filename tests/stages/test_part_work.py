"""Parts are done once and kept. Oracles: what lies at the root, and when it was committed."""

import pickle
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from made import part_tasks
from made.pools import PicklingPool

from neuclip.foundation.errors import ChildError, DataError, IntegrityError, NumericsError
from neuclip.stages.loaded import Loaded, release
from neuclip.stages.manifest import read_manifest
from neuclip.stages.part_work import Part, do_parts
from neuclip.stages.pool import LOCAL
from neuclip.stages.workspace import StageIdentity

POOLS = pytest.mark.parametrize("pool", [LOCAL, PicklingPool()], ids=["local", "threads"])


def part(root, key, work=None, size=1):
    identity = StageIdentity("made", 1, key, {"of": key}, {}, str(root), part=True)
    return Part(identity, work or partial(part_tasks.write, key), note=f"making {key}", size=size)


def begun(root) -> dict[str, str]:
    folders = Path(root, "made/parts").glob("*/manifest.json")
    return {path.parent.name: read_manifest(str(path.parent)).started_at for path in folders}


@POOLS
def test_the_manifests_of_all_come_in_order_and_a_second_time_nothing_is_done(tmp_path, pool):
    parts = [part(tmp_path, key) for key in "cabd"]
    manifests = do_parts(parts, pool=pool)
    assert [manifest.key for manifest in manifests] == list("cabd")
    for one in parts:
        assert Path(one.identity.uri, "text").read_text() == one.identity.key
    before = begun(tmp_path)
    assert do_parts(parts, pool=pool) == manifests
    assert begun(tmp_path) == before


@POOLS
def test_only_what_is_missing_is_done_unless_forced(tmp_path, pool):
    do_parts([part(tmp_path, key) for key in "ac"], pool=pool)
    before = begun(tmp_path)
    do_parts([part(tmp_path, key) for key in "abcd"], pool=pool)
    after = begun(tmp_path)
    assert {key: after[key] for key in before} == before
    assert set(after) == set("abcd")
    do_parts([part(tmp_path, key) for key in "ab"], pool=pool, force=True)
    forced = begun(tmp_path)
    assert [key for key in after if forced[key] != after[key]] == sorted(
        "ab", key=list(after).index
    )


@POOLS
def test_a_part_that_no_longer_holds_is_done_again(tmp_path, pool):
    do_parts([part(tmp_path, key) for key in "ab"], pool=pool)
    before = begun(tmp_path)
    do_parts([part(tmp_path, "a"), replace(part(tmp_path, "b"), redo=True)], pool=pool)
    after = begun(tmp_path)
    assert after["a"] == before["a"]
    assert after["b"] != before["b"]


@POOLS
def test_wrong_inputs_are_told_together_once_all_parts_are_done(tmp_path, pool):
    parts = [
        part(tmp_path, "a", partial(part_tasks.refuse, "first")),
        part(tmp_path, "b"),
        part(tmp_path, "c", partial(part_tasks.refuse, "second")),
        part(tmp_path, "d"),
    ]
    with pytest.raises(DataError, match=r"^first, second$"):
        do_parts(
            parts,
            pool=pool,
            on_wrong_input=lambda errors: DataError(", ".join(map(str, errors))),
        )
    assert set(begun(tmp_path)) == {"b", "d"}


@POOLS
def test_a_part_that_is_asked_for_twice_is_done_once(tmp_path, pool):
    seen = []
    manifests = do_parts(
        [part(tmp_path, "a"), part(tmp_path, "a")],
        pool=pool,
        progress=lambda stage, **told: seen.append(told["note"]),
    )
    assert [manifest.key for manifest in manifests] == ["a", "a"]
    assert seen.count("making a") == 1


def test_progress_counts_sizes_and_what_a_part_reports_of_itself(tmp_path):
    """Oracle: sizes by hand; the first part is there already, and 100 were done before."""
    do_parts([part(tmp_path, "a", size=10)])
    seen = []
    parts = [part(tmp_path, key, size=size) for key, size in (("a", 10), ("b", 40), ("c", 50))]
    do_parts(
        parts,
        progress=lambda stage, *, done, total, note: seen.append((done, total, note)),
        done=100,
        total=300,
    )
    assert seen == [
        (110, 300, "making b"),
        (130, 300, "half"),
        (150, 300, "making c"),
        (175, 300, "half"),
    ]


def test_here_an_error_ends_it_as_it_is_and_what_is_done_is_kept(tmp_path):
    bad = part(tmp_path, "b", partial(part_tasks.refuse, "no such thing"))
    with pytest.raises(DataError, match=r"^no such thing$"):
        do_parts([part(tmp_path, "a"), bad, part(tmp_path, "c")])
    assert set(begun(tmp_path)) == {"a"}


def test_elsewhere_the_parts_that_failed_are_named_with_their_reasons(tmp_path):
    parts = [
        part(tmp_path, "a"),
        part(tmp_path, "b", partial(part_tasks.refuse, "no such thing")),
        part(tmp_path, "c", part_tasks.divide),
        part(tmp_path, "d"),
    ]
    with pytest.raises(ChildError) as told:
        do_parts(parts, pool=PicklingPool())
    message = str(told.value)
    assert "2 of 4 parts are not done" in message
    assert "made-b: no such thing" in message
    assert "made-c: ZeroDivisionError" in message
    assert "kept: run again" in message
    assert "\n" not in message
    assert set(begun(tmp_path)) == {"a", "d"}
    before = begun(tmp_path)
    do_parts([part(tmp_path, key) for key in "abcd"], pool=PicklingPool())
    assert {key: begun(tmp_path)[key] for key in before} == before


def test_what_all_failed_parts_raise_is_raised(tmp_path):
    """A model with broken weights is one message with its own exit code, not one for each part."""
    parts = [part(tmp_path, key, part_tasks.overflow) for key in "abc"]
    with pytest.raises(NumericsError, match=r"^weight 7 is not finite$"):
        do_parts(parts, pool=PicklingPool())


class StoppingPool(PicklingPool):
    """Begins nothing after a failure."""

    def do(self, calls, progress):
        from neuclip.stages.pool import Failure

        for result in super().do(calls[:2], progress):
            yield result
            if isinstance(result, Failure):
                return


def test_parts_that_were_not_begun_are_counted(tmp_path):
    parts = [part(tmp_path, "a", part_tasks.divide), *(part(tmp_path, key) for key in "bcd")]
    with pytest.raises(ChildError, match=r"4 of 4 parts are not done.*3 were not begun"):
        do_parts(parts, pool=StoppingPool())


@POOLS
def test_a_committed_part_that_lost_a_file_is_told(tmp_path, pool):
    do_parts([part(tmp_path, "a")], pool=pool)
    Path(tmp_path, "made/parts/a/text").unlink()
    with pytest.raises(IntegrityError, match=r"text is missing.*--only made --force"):
        do_parts([part(tmp_path, "a")], pool=pool)
    do_parts([part(tmp_path, "a")], pool=pool, force=True)
    assert Path(tmp_path, "made/parts/a/text").read_text() == "a"


LOADS = []


def load(name):
    LOADS.append(name)
    return [name]


def test_a_worker_loads_once_for_all_its_parts_and_holds_one_thing():
    LOADS.clear()
    one, other = Loaded(partial(load, "one")), Loaded(partial(load, "other"))
    first = one.here()
    assert pickle.loads(pickle.dumps(one)).here() is first
    assert LOADS == ["one"]
    other.here()
    assert one.here() is not first
    assert LOADS == ["one", "other", "one"]
    release()
    one.here()
    assert LOADS.count("one") == 3
    release()


def test_each_thread_has_its_own():
    LOADS.clear()
    one = Loaded(partial(load, "one"))
    found = [one.here()]
    thread = threading.Thread(target=lambda: found.append(one.here()))
    thread.start()
    thread.join()
    assert found[0] is not found[1]
    release()
