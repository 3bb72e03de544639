"""What all stage flows do: check the recipe, do the stages, show what happened."""

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from neuclip.journey import StageReport, from_stage, plan
from neuclip.recipe import Recipe, load_recipe
from tasks.stage import do_stage


def read_recipe(recipe: str, overrides: dict[str, Any] | None) -> Recipe:
    """Read and check the recipe and its inputs before anything runs, with the command line's messages."""
    loaded = load_recipe(recipe, overrides)
    plan(loaded)
    return loaded


def do_from(
    stage: str, recipe: str, overrides: dict[str, Any] | None, *, force: bool, only: bool
) -> list[dict[str, Any]]:
    """Do a stage, again if forced, and, unless `only`, what is not done below it."""
    loaded = read_recipe(recipe, overrides)
    done = [do_and_show(loaded, stage, force=force)]
    if not only:
        done += [do_and_show(loaded, below, force=False) for below in from_stage(stage)[1:]]
    return done


def do_and_show(recipe: Recipe, stage: str, *, force: bool) -> dict[str, Any]:
    """Do one stage and make its artifacts; return what the next flow may want to know."""
    report = do_stage(recipe, stage, force=force)
    create_markdown_artifact(
        _page(report), key=f"{stage}-summary", description=f"{stage} {report.state}"
    )
    create_table_artifact(_rows(report), key=f"{stage}-ledger", description=f"ledger of {stage}")
    return {"stage": stage, "key": report.key, "uri": report.uri, "state": report.state}


def _rows(report: StageReport) -> list[dict[str, Any]]:
    ledger = report.manifest.ledger
    rows: list[dict[str, Any]] = [
        {"what": "in", "count": ledger.entered},
        {"what": "out", "count": ledger.out},
    ]
    return rows + [
        {"what": f"dropped: {reason}", "count": count} for reason, count in ledger.dropped.items()
    ]


def _page(report: StageReport) -> str:
    manifest = report.manifest
    lines = [
        f"# {report.stage}: {report.state}",
        f"`{report.uri}`",
        f"{manifest.ledger.describe()}, {manifest.wall_s:.1f} s, neuclip {manifest.code_version}",
        "| file | bytes | sha256 |",
        "|---|---:|---|",
    ]
    lines[3:3] = [
        f"- {name}: `{value}`"
        for name, value in manifest.summary.items()
        if isinstance(value, (int, float, str))
    ]
    files = [
        f"| {file.name} | {file.size_bytes} | `{file.sha256[:12]}` |"
        for file in manifest.files[:50]
    ]
    return "\n\n".join(lines[:-2]) + "\n\n" + "\n".join(lines[-2:] + files)
