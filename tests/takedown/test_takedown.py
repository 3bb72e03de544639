"""Oracle: the bytes on the disk, read by tarfile and by a search for what must be gone."""

import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from made.fetched import commit_fetched, picture_of
from made.tables import uid, write_table
from pyarrow import ipc
from takedown.conftest import (
    FAILED,
    PAIRS,
    Lake,
    caption_of,
    derived_of,
    make_lake,
    table_rows,
    texts_of,
    unusable_of,
    url_of,
)

import neuclip.acquire.erase as acquire_erase
import neuclip.captions.erase as captions_erase
import neuclip.index.erase as index_erase
import neuclip.shards.erase as shards_erase
import neuclip.takedown.run as takedown_run
from neuclip.acquired.partitions import texts_paths
from neuclip.acquired.refusals import read_takedowns
from neuclip.foundation.errors import DataError
from neuclip.foundation.progress import silent
from neuclip.journey import plan, run_stage
from neuclip.loading.shard_files import ShardFiles
from neuclip.stages.manifest import read_manifest, verify_sizes
from neuclip.storage.files import sha256_of
from neuclip.takedown.lists import Wanted, read_wanted
from neuclip.takedown.run import run_takedown

BY_UID, BY_URL, BY_HOST = [1, 22], [33, 4], [7, 27, 47]
GONE = sorted([*BY_UID, *BY_URL, *BY_HOST])
WANTED = Wanted(
    uids=[uid(1), uid(22), uid(999)],
    urls=[url_of(33), "http://good.example.org/4.png", "http://nowhere.example.org/x"],
    hosts=["bad.example.org"],
)


def take_down(lake: Lake, wanted: Wanted = WANTED):
    return run_takedown(str(lake.root), wanted, progress=silent)


def rows_of(lake: Lake, acquire_key: str) -> list[dict]:
    parts = read_manifest(str(lake.root / "acquire" / acquire_key)).parts
    return [
        row
        for part in parts
        for row in pq.read_table(
            lake.root / "acquire" / "parts" / part / "rows.parquet"
        ).to_pylist()
    ]


def acquired_texts(lake: Lake, acquire_key: str) -> dict[str, tuple[dict, dict]]:
    """Return uid -> texts that can be used by source, and how many cannot."""
    return {
        row["uid"]: (dict(row["captions"]), dict(row["unusable"]))
        for path in texts_paths(str(lake.root / "acquire" / acquire_key))
        for row in pq.read_table(path).to_pylist()
    }


def committed_folders(root: Path) -> list[Path]:
    return [path.parent for path in sorted(root.rglob("manifest.json"))]


def check_manifests(root: Path) -> None:
    """Every committed folder is what its manifest says, byte for byte."""
    for folder in committed_folders(root):
        manifest = read_manifest(str(folder))
        verify_sizes(str(folder), manifest)
        assert all(sha256_of(str(folder / file.name)) == file.sha256 for file in manifest.files)
        manifest.ledger.check(str(folder))


def tars_below(root: Path) -> list[Path]:
    return sorted(root.rglob("*.tar"))


def members(path: Path) -> dict[str, tuple[int, int]]:
    with tarfile.open(path) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}


def test_nothing_of_a_pair_is_left_where_bytes_can_be_erased(lake):
    """The places of all members stay, and the bytes of all other pairs."""
    acquired = lake.uri("acquire").name
    before = {path: members(path) for path in tars_below(lake.root)}
    assert before
    report = take_down(lake)
    assert {path: members(path) for path in tars_below(lake.root)} == before
    check_manifests(lake.root)
    erasable = [*lake.root.glob("acquire/parts/*/*"), *lake.root.glob("shard/parts/*/*.tar")]
    content = b"".join(path.read_bytes() for path in erasable)
    rows = rows_of(lake, acquired)
    told = acquired_texts(lake, acquired)
    assert list(told) == [row["uid"] for row in rows]
    for number in range(PAIRS):
        row = rows[number]
        here = [picture_of(uid(number)) in content, url_of(number).encode() in content]
        if number in GONE:
            assert here == [False, False]
            assert (row["status"], row["reason"], row["url"]) == ("failed", "taken_down", None)
            assert (row["uid"], row["detail"]) == (uid(number), None)
            assert told[uid(number)] == ({}, {})
        elif number in FAILED:
            assert (row["reason"], row["url"]) == (FAILED[number], url_of(number))
        else:
            assert here == [True, True]
        if number not in GONE:
            assert told[uid(number)] == (texts_of(number), unusable_of(number))
    assert (report.rows, report.images) == (len(GONE), len(GONE) - 1)  # one had failed
    assert report.not_found == [uid(999), "http://nowhere.example.org/x"]


def test_no_byte_of_a_pair_is_found_below_the_root(lake):
    """Every file is searched, raw and decoded, for texts of all sources, what was made of them, and the image."""
    wanted = {needle: n for n in range(PAIRS) for needle in needles(n)}
    before = search(lake.root, wanted)
    for needle, number in wanted.items():
        assert before[needle] == _kinds_with(needle, number), (number, needle)
    report = take_down(lake)
    check_manifests(lake.root)
    after = search(lake.root, wanted)
    for needle, number in wanted.items():
        expected = set() if number in GONE else before[needle]
        assert after[needle] == expected, (number, needle)
    assert {Path(uri).relative_to(lake.root).parts[:2] for uri in report.erased} == {
        (stage, "parts") for stage in ("acquire", "caption", "shard", "index")
    }
    texts = [part for part in report.erased if Path(part, "texts.parquet").exists()]
    assert {Path(part).parent.parent.name for part in texts} == {"acquire", "caption"}
    assert len([part for part in texts if "/acquire/" in part]) == 4  # partitions of ten
    lake.run()
    again = search(lake.root, wanted)
    for needle, number in wanted.items():
        assert again[needle] == after[needle], (number, needle)


def test_a_row_that_repeats_a_uid_loses_its_texts_too(tmp_path):
    """Its texts are others, and lie where those of the first row do."""
    lake = make_lake(tmp_path, failed={})
    rows = table_rows(PAIRS)
    rows[45] |= {"uid": uid(5)}
    write_table(Path(lake.table), rows)
    acquire = lake.recipe.acquire.model_copy(update={"on_duplicate_uid": "keep_first"})
    recipe = lake.recipe.model_copy(update={"acquire": acquire})
    commit_fetched(acquire, recipe.root)
    run_stage(recipe, "acquire")
    words = [text.encode() for n in (5, 45) for texts in texts_of(n).values() for text in texts]
    assert all(search(lake.root, words).values())
    take_down(lake, Wanted([uid(5)], [], []))
    assert not any(search(lake.root, words).values())
    check_manifests(lake.root)


def needles(number: int) -> list[bytes]:
    """Return what must be found nowhere: every text of a pair, given or made, and pieces of its image."""
    texts = [*texts_of(number).values(), *derived_of(number).values()]
    picture = picture_of(uid(number))
    assert len(picture) > 100
    pieces = [picture[start : start + 20] for start in range(41, len(picture) - 32, 20)]
    return [*(text.encode() for several in texts for text in several), *pieces]


def search(root: Path, wanted: Iterable[bytes]) -> dict[bytes, set[str]]:
    """Return each content -> kinds of files below a root that have it, raw or as their reader decodes them."""
    found: dict[bytes, set[str]] = {needle: set() for needle in wanted}
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        content = b"\n".join([path.read_bytes(), *_decoded(path)])
        kind = f"{path.relative_to(root).parts[0]} {path.suffix}"
        for needle, kinds in found.items():
            if needle in content:
                kinds.add(kind)
    return found


def _decoded(path: Path) -> Iterator[bytes]:
    if path.suffix == ".parquet":
        yield str(pq.read_table(path).to_pylist()).encode()
    elif path.suffix == ".arrow":
        yield str(ipc.open_file(path).read_all().to_pylist()).encode()
    elif path.suffix == ".duckdb":
        with duckdb.connect(str(path), read_only=True) as connection:
            for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                yield str(connection.execute(f'SELECT * FROM "{table}"').fetchall()).encode()


def _kinds_with(needle: bytes, number: int) -> set[str]:
    """Return the kinds of files that have a text or a piece of an image of a pair before any takedown."""
    if number in FAILED:
        given = [text.encode() for texts in texts_of(number).values() for text in texts]
        return {"acquire .parquet"} if any(needle in text for text in given) else set()
    if needle in picture_of(uid(number)):
        return {"acquire .tar", "shard .tar"}
    derived = [text.encode() for texts in derived_of(number).values() for text in texts]
    everywhere = {"caption .parquet", "index .arrow"}
    if needle == caption_of(number).encode():
        return {"acquire .parquet", "shard .tar", *everywhere}
    if needle in derived and not any(
        needle in text.encode() for texts in texts_of(number).values() for text in texts
    ):
        return everywhere
    return {"acquire .parquet", *everywhere}


def test_kept_columns_and_accounts_follow(lake):
    stage = lake.uri("acquire")
    take_down(lake)
    manifest = read_manifest(str(stage))
    tags = [
        tag
        for part in manifest.parts
        for tag in pq.read_table(stage / "columns" / f"{part}.parquet")["tag"].to_pylist()
    ]
    assert tags == [None if n in GONE else f"tag {n}" for n in range(PAIRS)]
    assert manifest.ledger.dropped == {"taken_down": 7, "timeout": 2}
    assert manifest.ledger.out == PAIRS - 9
    listed = pq.read_table(stage / "partitions.parquet")
    assert sum(listed["out"].to_pylist()) == PAIRS - 9
    assert manifest.summary["takedowns"] == [1]
    (record,) = read_takedowns(str(lake.root))
    assert record.is_finished
    text = (lake.root / "takedowns" / "0001.json").read_text()
    assert set(record.found) == {uid(n) for n in GONE}
    assert url_of(33) not in text
    assert "secret" not in text


def test_the_next_run_drops_the_pairs_everywhere_and_fetches_nothing(lake):
    """Every partition keeps its key: acquire runs without a download, so no server need be there."""
    before = {stage: lake.uri(stage) for stage in ("acquire", "curate", "shard", "index")}
    parts = read_manifest(str(before["acquire"])).parts
    take_down(lake)
    assert {item.state for item in plan(lake.recipe)[:5]} == {"missing"}
    lake.run()
    after = {stage: lake.uri(stage) for stage in before}
    assert not set(before.values()) & set(after.values())
    assert read_manifest(str(after["acquire"])).parts == parts
    packed = pq.read_table(after["shard"] / "members.parquet")["uid"].to_pylist()
    assert sorted(packed) == [uid(n) for n in range(PAIRS) if n not in {*GONE, *FAILED}]
    check_manifests(lake.root)


def test_what_was_taken_down_is_refused_when_the_table_grows(lake):
    """Oracle: rows by each of the three lists in a partition that is new."""
    take_down(lake)
    more = [
        {
            "uid": uid(100),
            "url": "http://x.bad.example.org/1",
            "caption": caption_of(100),
            "rewrites": texts_of(100)["rewrite"],
            "title": "secret title 100",
            "tag": "",
        },
        {"uid": uid(999), "url": "http://fine.example.org/1", "caption": "c", "tag": ""},
        {"uid": uid(101), "url": "https://nowhere.example.org/x", "caption": "c", "tag": ""},
    ]
    write_table(Path(lake.table), [*table_rows(PAIRS), *more])
    run_stage(lake.recipe, "acquire")
    rows = rows_of(lake, lake.uri("acquire").name)[PAIRS:]
    assert [(row["reason"], row["url"]) for row in rows] == [("refused", None)] * 3
    told = acquired_texts(lake, lake.uri("acquire").name)
    assert [told[uid(number)] for number in (100, 999, 101)] == [({}, {})] * 3
    assert told[uid(0)] == (texts_of(0), {})
    assert not any(search(lake.root, needles(100)).values())


def test_the_same_lists_again_change_nothing(lake):
    take_down(lake)
    before = {path: path.stat().st_mtime_ns for path in lake.root.rglob("*") if path.is_file()}
    again = take_down(lake)
    assert {p: p.stat().st_mtime_ns for p in lake.root.rglob("*") if p.is_file()} == before
    assert (again.rows, again.images, again.erased, again.records) == (0, 0, [], [])
    assert set(again.taken_down_before) == {*WANTED.uids, *WANTED.urls, *WANTED.hosts}
    assert again.not_found == []
    assert [place.stage for place in again.contained]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "which"),
    [
        (takedown_run, "revise", 1),
        (takedown_run, "erase_part", 1),
        (takedown_run, "erase_part", 3),
        (takedown_run, "update_stage", 1),
        (acquire_erase, "erase_texts", 1),
        (acquire_erase, "erase_texts", 4),
        (captions_erase, "erase_part", 1),
        (captions_erase, "erase_part", 7),
        (shards_erase, "erase_from_shards", 1),
        (index_erase, "erase_side_part", 1),
        (index_erase, "erase_side_part", 3),
        (takedown_run, "_write", 2),  # the first is the record itself
    ],
)
def test_a_takedown_that_is_ended_at_any_step_is_finished_by_the_next(
    lake, monkeypatch, module, name, which
):
    """Oracle: the same end as of one that was not ended; until then acquire refuses to run."""
    calls, work = 0, getattr(module, name)

    def ended(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls < which:
            return work(*args, **kwargs)
        if name in ("revise", "_write"):
            raise _KilledError
        with monkeypatch.context() as half:  # files changed, manifest not
            half.setattr("neuclip.stages.open_folder.OpenFolder.close", _killed)
            return work(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, ended)
        with pytest.raises(_KilledError):
            take_down(lake)
    assert calls == which
    with pytest.raises(DataError, match="run `neuclip takedown"):
        run_stage(lake.recipe, "acquire", force=True)
    report = take_down(lake, Wanted([], [], []))
    assert len(report.records) == 1
    check_manifests(lake.root)
    rows = rows_of(lake, read_manifest(str(next_stage(lake))).key)
    assert [n for n, row in enumerate(rows) if row["reason"] == "taken_down"] == GONE
    lake.run()
    packed = pq.read_table(lake.uri("shard") / "members.parquet")["uid"].to_pylist()
    assert not {uid(n) for n in GONE} & set(packed)
    for number in GONE:
        assert not any(search(lake.root, needles(number)).values())


class _KilledError(Exception):
    pass


def _killed(*_, **__):
    raise _KilledError


def next_stage(lake: Lake) -> Path:
    (stage,) = [p.parent for p in lake.root.glob("acquire/*/manifest.json")]
    return stage


def test_everything_made_with_the_pairs_is_listed(lake):
    """Oracle: the stages of the journey; pair 4 had failed, so nothing was made with it."""
    report = take_down(lake)
    places = {(place.stage, place.uri): place.pairs for place in report.contained}
    shard = identify_before(lake, "shard")
    members = pq.read_table(shard / "members.parquet")["uid"].to_pylist()
    packed = sum(uid(n) in members for n in GONE)
    assert places["shard", str(shard)] == packed == len(GONE) - 1
    assert places["caption", str(identify_before(lake, "caption"))] == packed
    assert places["index", str(identify_before(lake, "index"))] == packed
    assert {place.stays for place in report.contained if place.stage == "caption"} == {
        "nothing: the texts were erased"
    }
    assert sum(stage == "score" for stage, _ in places) == 4  # partitions of ten with one of them
    alone = take_down(lake, Wanted([], ["https://good.example.org/4.png"], []))
    assert all(place.stage != "train" for place in alone.contained)


def test_plans_that_a_killed_run_left_for_its_workers_go_too(lake):
    """They hold rows of pairs; oracle: every file below the root."""
    for stage in ("acquire", "shard"):
        plan = lake.root / stage / "plans" / "0123" / "4567.parquet"
        plan.parent.mkdir(parents=True)
        plan.write_bytes(b"secret words of pair 1")
    take_down(lake)
    assert not list(lake.root.rglob("plans"))


def identify_before(lake: Lake, stage: str) -> Path:
    (folder,) = [path.parent for path in lake.root.glob(f"{stage}/*/manifest.json")]
    return folder


def test_old_shards_can_still_be_read_and_the_sample_counts_as_corrupt(lake):
    shard = identify_before(lake, "shard")
    take_down(lake)
    files = ShardFiles(str(shard), cache_gb=1)
    rows = pq.read_table(shard / "members.parquet").to_pylist()
    erased = [row for row in rows if row["uid"] in {uid(n) for n in GONE}]
    for row in erased:
        shard_file = files.open(row["shard"])
        record = json.loads(shard_file.read(row["json_offset"], row["json_size"]))
        assert record == {"uid": row["uid"], "sample_id": row["sample_id"]}
        assert not shard_file.read(row["text_offset"], row["text_size"]).strip()
        assert not any(shard_file.read(row["image_offset"], row["image_size"]))


def test_a_pair_that_had_failed_keeps_what_is_below(lake):
    """Nothing was made with it, so nothing is to be made again."""
    before = {stage: lake.uri(stage) for stage in ("acquire", "index")}
    report = take_down(lake, Wanted([uid(4)], [], []))
    assert (report.rows, report.images, report.contained) == (1, 0, [])
    assert {stage: lake.uri(stage) for stage in before} == before
    assert read_manifest(str(before["acquire"])).ledger.dropped == {"timeout": 2, "taken_down": 1}


def test_lists_are_read_line_by_line(tmp_path):
    (tmp_path / "uids").write_text(f"# mine\n{uid(1).upper()}  # asked for by mail\n\n{uid(2)}\n")
    (tmp_path / "urls").write_text("https://a.example.org/x#top\n")
    (tmp_path / "hosts").write_text("\ufeffExample.ORG\n", encoding="utf-8")
    wanted = read_wanted(
        uids=str(tmp_path / "uids"), urls=str(tmp_path / "urls"), hosts=str(tmp_path / "hosts")
    )
    assert wanted.refusals.uids == {uid(1), uid(2)}
    assert wanted.refusals.names_pair("", "http://a.example.org/x")
    assert wanted.refusals.names_pair("", "http://a.b.example.org")


@pytest.mark.parametrize(
    ("kind", "line", "words"),
    [
        ("uids", "12", ["entry 2", "'12'", "32 hex digits"]),
        ("urls", "example.org/x", ["http://"]),
        ("hosts", "https://example.org", ["img.example.org"]),
        ("hosts", "example.org/path", ["img.example.org"]),
        ("hosts", "org", ["img.example.org"]),
    ],
)
def test_a_wrong_line_is_named(tmp_path, kind, line, words):
    first = {"uids": uid(1), "urls": "http://a/b", "hosts": "a.b"}[kind]
    (tmp_path / "list").write_text(f"{first}\n{line}\n")
    lists = dict.fromkeys(("uids", "urls", "hosts"))
    with pytest.raises(DataError) as error:
        read_wanted(**{**lists, kind: str(tmp_path / "list")})
    assert all(word in str(error.value) for word in words)


def test_a_trial_tells_the_same_and_changes_nothing(lake):
    before = {path: path.stat().st_mtime_ns for path in lake.root.rglob("*") if path.is_file()}
    trial = run_takedown(str(lake.root), WANTED, progress=silent, is_trial=True)
    assert {p: p.stat().st_mtime_ns for p in lake.root.rglob("*") if p.is_file()} == before
    report = take_down(lake)
    for told in ("rows", "images", "not_found", "taken_down_before", "contained"):
        assert getattr(trial, told) == getattr(report, told)
    assert trial.rows == len(GONE)
    assert (trial.records, trial.erased) == ([], [])


def test_a_root_where_nothing_was_acquired_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing was acquired"):
        run_takedown(str(tmp_path / "laek"), WANTED, progress=silent)
    assert not (tmp_path / "laek" / "takedowns").exists()
