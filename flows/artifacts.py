"""The artifacts of a stage: a page with its summary and files, and a table with its ledger."""

import json
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from neuclip.curate.files import FUNNEL
from neuclip.journey import StageReport
from neuclip.stages.committed import committed_bytes, holds_file

_MOST_FILES = 50


def show(report: StageReport) -> dict[str, Any]:
    """Make the artifacts of a stage; return what the caller of a flow may want to know."""
    stage = report.stage
    create_markdown_artifact(
        page(report), key=f"{stage}-summary", description=f"{stage} {report.state}"
    )
    create_table_artifact(rows(report), key=f"{stage}-ledger", description=f"ledger of {stage}")
    if holds_file(report.uri, FUNNEL):
        funnel = read_funnel(report.uri)
        create_table_artifact(funnel, key=f"{stage}-funnel", description="what each rule drops")
    return report.model_dump(include={"stage", "key", "uri", "state"})


def page(report: StageReport) -> str:
    """Return the page: what the stage did, its summary, its files."""
    manifest = report.manifest
    summary = [
        f"- {name}: `{value}`"
        for name, value in manifest.summary.items()
        if isinstance(value, (int, float, str))
    ]
    files = [
        f"| {file.name} | {file.size_bytes} | `{file.sha256[:12]}` |"
        for file in manifest.files[:_MOST_FILES]
    ]
    lines = [
        f"# {report.stage}: {report.state}",
        "",
        f"`{report.uri}`",
        "",
        f"{manifest.ledger.describe()}, {manifest.wall_s:.1f} s, neuclip {manifest.code_version}",
        "",
        *summary,
        "",
        "| file | bytes | sha256 |",
        "|---|---:|---|",
        *files,
    ]
    if (more := len(manifest.files) - len(files)) > 0:
        lines += ["", f"and {more} more files"]
    return "\n".join(lines)


def read_funnel(curate_uri: str) -> list[dict[str, Any]]:
    """Return the funnel of curate, a row for each reason in order."""
    steps = json.loads(committed_bytes(curate_uri, FUNNEL))["steps"]
    return [{name: step[name] for name in ("reason", "dropped", "alone", "kept")} for step in steps]


def rows(report: StageReport) -> list[dict[str, Any]]:
    """Return the ledger, a row for each count."""
    ledger = report.manifest.ledger
    counts = {
        "in": ledger.entered,
        "out": ledger.out,
        **{f"dropped: {reason}": count for reason, count in ledger.dropped.items()},
    }
    return [{"what": what, "count": count} for what, count in counts.items()]
