"""The command line."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from neuclip.cli.console import (
    LiveProgress,
    comparison_table,
    normalizers_table,
    plan_table,
    scores_table,
    set_up_logging,
    stages_table,
)
from neuclip.cli.entry import main
from neuclip.cli.failures import explained, print_json
from neuclip.demo.settings import PORT, ROOT, WebSettings
from neuclip.foundation.errors import ConfigError, NeuclipError
from neuclip.journey import StageReport, plan, preflight, run_journey
from neuclip.recipe import Recipe, load_recipe, parse_override
from neuclip.stage_list import NAMES, from_stage, stage_called
from neuclip.stages.committed import committed_bytes
from neuclip.stages.manifest import read_manifest
from neuclip.storage.uris import join, parent_of

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a list of image URLs with captions to an evaluated, published CLIP model.",
)
screen = Console(stderr=True)

RecipeArgument = Annotated[str, typer.Argument(help="path or URL of a recipe (YAML)")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=C", help="override a field of the recipe; may be given often"
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="print one JSON object on stdout and nothing else there")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="log what is done")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="do the chosen stages again although they are done")
]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="do STAGE and all below it again")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="do this stage alone")] = None,
    *,
    force: ForceOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run the stages of a recipe that are not done yet."""
    set_up_logging(screen, verbose=verbose)
    with explained(screen, as_json=as_json):
        if start is not None and only is not None:
            raise ConfigError("--from and --only contradict each other; give one")
        chosen = NAMES
        if only is not None:
            chosen = (stage_called(only).name,)
        elif start is not None:
            chosen, force = from_stage(start), True
        _run_and_show(_load(recipe, overrides), chosen, force=force, as_json=as_json)


@app.command(name="plan")
def show_plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="with --budget: training samples; default those of the index"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="with --budget: time to measure each phase for")
    ] = 10.0,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="with --budget: what a device achieves, 1e12 FLOP/s, in place of measuring this one",
        ),
    ] = None,
    *,
    with_budget: Annotated[
        bool,
        typer.Option(
            "--budget", help="say what training costs, and which models the same hours would train"
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say for every stage whether it is done, and why not. Touches no data, but with --budget."""
    set_up_logging(screen, verbose=False)
    with explained(screen, as_json=as_json):
        loaded = _load(recipe, overrides)
        if with_budget:
            _show_budget(loaded, samples=samples, seconds=seconds, tflops=tflops, as_json=as_json)
            return
        plans = plan(loaded)
        if as_json:
            print_json(
                {"root": loaded.root, "stages": {item.stage: item.model_dump() for item in plans}}
            )
        else:
            Console().print(plan_table(plans))


@app.command(name="preflight")
def show_preflight(
    recipe: RecipeArgument, overrides: SetOption = None, *, as_json: JsonOption = False
) -> None:
    """Check a recipe's training, one batch end to end on this machine included, before it is run."""
    set_up_logging(screen, verbose=False)
    refusals: list[NeuclipError] = []
    findings: list[dict[str, str]] = []
    with explained(screen, as_json=as_json):
        for name, check in preflight(_load(recipe, overrides)).items():
            try:
                finding = {"check": name, "state": "ok", "says": check()}
            except NeuclipError as error:
                refusals.append(error)
                finding = {"check": name, "state": "error", "says": str(error)}
            findings.append(finding)
            if not as_json:
                _print_finding(**finding)
        if as_json:
            print_json({"findings": findings})
        if refusals:
            raise typer.Exit(refusals[0].exit_code)


@app.command()
def show(
    uri: Annotated[str, typer.Argument(help="folder of a stage or a partition")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Show a committed folder: its manifest, and the stages it was made from."""
    set_up_logging(screen, verbose=False)
    with explained(screen, as_json=as_json):
        manifest = read_manifest(uri)
        root = parent_of(parent_of(parent_of(uri) if parent_of(uri).endswith("/parts") else uri))
        shown = {
            "uri": uri,
            "manifest": manifest.model_dump(mode="json", by_alias=True),
            "lineage": _lineage(root, manifest.inputs),
        }
        if as_json:
            print_json(shown)
        else:
            Console().print_json(data=shown)


@app.command()
def query(
    recipe: RecipeArgument,
    statement: Annotated[str, typer.Argument(metavar="SQL", help="one SELECT statement")],
    overrides: SetOption = None,
    limit: Annotated[int, typer.Option(min=1, help="most rows that are shown")] = 100,
    *,
    as_json: JsonOption = False,
) -> None:
    """Ask by SQL: views samples, features, clusters, sample_statistics, verdicts, rules, rows, captions. Only reads."""
    from neuclip.cli.answers import rows_table
    from neuclip.query.sql import run_query

    set_up_logging(screen, verbose=False)
    with explained(screen, as_json=as_json):
        result = run_query(_load(recipe, overrides), statement, limit=limit)
        if as_json:
            print_json(asdict(result))
            return
        Console().print(rows_table(result))
        if result.is_cut:
            screen.print(f"there are more than {limit} rows; --limit shows more", style="yellow")


@app.command()
def explain(
    recipe: RecipeArgument,
    uid: Annotated[str, typer.Argument(help="32 hex digits")],
    overrides: SetOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Tell the whole story of one pair, from its row in the table to what training made of it."""
    from neuclip.cli.answers import story_lines
    from neuclip.query.explain import explain as tell

    set_up_logging(screen, verbose=False)
    with explained(screen, as_json=as_json):
        story = tell(_load(recipe, overrides), uid)
        if as_json:
            print_json(asdict(story))
            return
        _print_lines(story_lines(story))


@app.command()
def repair(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    *,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Fetch again what acquire lost to time-outs, busy servers and the like; what failed for good is left alone."""
    from neuclip.cli.revising import repair_lines
    from neuclip.repair import repair as mend

    set_up_logging(screen, verbose=verbose)
    with explained(screen, as_json=as_json):
        with LiveProgress(screen).shown() as progress:
            done, report = mend(_load(recipe, overrides), progress=progress)
        if as_json:
            ledger = report.manifest.ledger.model_dump(by_alias=True)
            print_json(
                {
                    "repair": asdict(done),
                    "acquire": {"key": report.key, "uri": report.uri, "ledger": ledger},
                }
            )
            return
        _print_lines(repair_lines(done, report))


@app.command(name="export-shards")
def export_shards(
    recipe: RecipeArgument,
    folder: Annotated[str, typer.Argument(help="empty folder or URL that the tars are written to")],
    sources: Annotated[
        str, typer.Option(help="caption sources, by comma; the first that a sample has is its .txt")
    ] = "alt",
    overrides: SetOption = None,
    *,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write the training samples as plain tars with the chosen texts, for other tools."""
    from neuclip import export

    set_up_logging(screen, verbose=verbose)
    with explained(screen, as_json=as_json):
        wanted = [source.strip() for source in sources.split(",")]
        with LiveProgress(screen).shown() as progress:
            done = export.export_shards(
                _load(recipe, overrides), folder, sources=wanted, progress=progress
            )
        if as_json:
            print_json(done.model_dump())
            return
        _print_lines(export.lines(done))


@app.command()
def takedown(
    place: Annotated[
        str, typer.Argument(metavar="RECIPE|ROOT", help="recipe (YAML), or the root of some")
    ],
    uids: Annotated[str | None, typer.Option(metavar="FILE", help="uids, one a line")] = None,
    urls: Annotated[str | None, typer.Option(metavar="FILE", help="URLs, one a line")] = None,
    hosts: Annotated[
        str | None, typer.Option(metavar="FILE", help="hosts, one a line; those below them go too")
    ] = None,
    overrides: SetOption = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="change nothing, and report what would go")
    ] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Erase pairs from a root for good, refuse them from now on, and list what was made with them.

    Without a list it finishes a takedown that was ended before it was done.
    """
    from neuclip.cli.revising import places_table, takedown_end, takedown_lines
    from neuclip.takedown.lists import read_wanted
    from neuclip.takedown.run import run_takedown

    set_up_logging(screen, verbose=verbose)
    with explained(screen, as_json=as_json):
        root = _load(place, overrides).root if place.endswith((".yaml", ".yml")) else place
        wanted = read_wanted(uids=uids, urls=urls, hosts=hosts)
        with LiveProgress(screen).shown() as progress:
            report = run_takedown(root, wanted, progress=progress, is_trial=dry_run)
        if as_json:
            print_json(asdict(report))
            return
        _print_lines(takedown_lines(report))
        if report.contained:
            Console().print(places_table(report))
        _print_lines(takedown_end(report))


@app.command()
def demo(
    variant: Annotated[str, typer.Argument(help="which recipe of the demo")] = "neuclip",
    root: Annotated[
        str | None,
        typer.Option(
            help=f"where all stages write; pictures and recipe go to ROOT-web. Default {ROOT}, with another "
            f"VARIANT {ROOT}-VARIANT"
        ),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(
            min=100,
            max=1_000_000,
            help="rows of the URL table; default 9000, with `captions` 2500, with `tokens` 6000",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=1024,
            max=65534,
            help="loopback port of the picture server; models have the next one",
        ),
    ] = PORT,
    overrides: SetOption = None,
    *,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run an example recipe on pictures that are drawn here and served on loopback."""
    from neuclip.demo.variants import pairs_of, root_of, set_up, web_beside

    set_up_logging(screen, verbose=verbose)
    with explained(screen, as_json=as_json):
        root = root or root_of(variant)
        settings = WebSettings(folder=web_beside(root), pairs=pairs or pairs_of(variant), port=port)
        changes = dict(parse_override(text) for text in overrides or [])
        with set_up(variant, settings, root=root, overrides=changes) as example:
            screen.print(f"recipe    {example.path}", markup=False, highlight=False, soft_wrap=True)
            _run_and_show(example.recipe, NAMES, force=False, as_json=as_json)


@app.command()
def doctor(
    root: Annotated[
        str | None, typer.Option(help="storage to try, such as s3://bucket/prefix")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: versions, GPU, torchvision, S3, Prefect API, disk."""
    from neuclip.cli.doctor import examine

    set_up_logging(screen, verbose=False)
    with explained(screen, as_json=as_json):
        findings = examine(root)
        if as_json:
            print_json({"findings": [asdict(finding) for finding in findings]})
        else:
            for finding in findings:
                _print_finding(**asdict(finding))
        if any(finding.state == "error" for finding in findings):
            raise typer.Exit(1)


@app.command()
def normalizers(
    checkpoint: Annotated[
        str, typer.Argument(help="folder step-... of a train stage that was run to its end")
    ],
    anchors: Annotated[
        int, typer.Option(min=2, help="samples that normalizers are compared for")
    ] = 1000,
    samples: Annotated[
        int | None,
        typer.Option(min=4, help="training samples that stand for the data set; default all"),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=2, help="global batch; may be given often; default half, once, twice the run's"
        ),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            min=1e-6,
            max=1,
            help="part of the data set taken as all; may be given often; default 1, 0.1",
        ),
    ] = None,
    epochs: Annotated[
        float, typer.Option(min=0.01, help="passes over the features before an estimator is asked")
    ] = 2.0,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="write the table, plot and numbers there")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Hold normalizer estimators at a checkpoint's weights against exact log-normalizers."""
    from neuclip.normalizers.measure import measure
    from neuclip.normalizers.report import write_report
    from neuclip.towers.encode import scoring_device

    set_up_logging(screen, verbose=False)
    with explained(screen, as_json=as_json):
        with LiveProgress(screen).shown() as progress:
            report = measure(
                checkpoint.rstrip("/"),
                num_anchors=anchors,
                max_samples=samples,
                batches=batch,
                shares=share or (1.0, 0.1),
                epochs=epochs,
                seed=0,
                device=scoring_device(),
                progress=progress,
            )
        if out is not None:
            write_report(report, Path(out))
        if as_json:
            print_json(report.model_dump(mode="json"))
        else:
            Console().print(normalizers_table(report))


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="folders of open_clip models, any URI")],
    sets: Annotated[
        list[str],
        typer.Option("--on", metavar="FOLDER", help="evaluation set (wds_*); may be given often"),
    ],
    root: Annotated[str, typer.Option(help="where scores are kept, any URI")] = "lake",
    batch_size: Annotated[int, typer.Option(min=1, help="images encoded at once")] = 256,
    *,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score models of anyone on evaluation sets, each image decoded once for all of them."""
    from neuclip.evaluation.models import evaluate_models

    set_up_logging(screen, verbose=False)
    with explained(screen, as_json=as_json):
        with LiveProgress(screen).shown() as progress:
            found = evaluate_models(
                [uri.rstrip("/") for uri in dict.fromkeys(models)],
                [uri.rstrip("/") for uri in sets],
                root=root.rstrip("/"),
                batch_size=batch_size,
                progress=progress,
                force=force,
            )
        rows = {one.uri: [row.model_dump(mode="json") for row in one.rows] for one in found}
        if as_json:
            told = [{"model": one.model, "uri": one.uri, "scores": rows[one.uri]} for one in found]
            print_json({"models": told})
            return
        for one in found:
            _print_lines([f"{one.model}, kept at {one.uri}"])
            Console().print(scores_table(rows[one.uri]))


@app.command()
def compare(
    models: Annotated[
        list[str], typer.Argument(help="two folders of evaluate stages or more: ROOT/evaluate/KEY")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="write the table, plot and numbers there")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Tell on which sets a model is better than another, and by how much."""
    from neuclip.evaluation.compare import compare as compare_models
    from neuclip.evaluation.comparison import write_comparison

    with explained(screen, as_json=as_json):
        uris = list(dict.fromkeys(uri.rstrip("/") for uri in models))
        if len(uris) < 2:
            raise ConfigError(
                "compare needs two models: folders of evaluate stages, ROOT/evaluate/KEY"
            )
        found = compare_models(uris)
        if out is not None:
            write_comparison(found, Path(out))
        if as_json:
            print_json({"comparisons": [one.model_dump(mode="json") for one in found]})
            return
        for versus in found:
            Console().print(comparison_table(versus))


def _show_budget(
    recipe: Recipe, *, samples: int | None, seconds: float, tflops: float | None, as_json: bool
) -> None:
    from neuclip.budget import plan_budget
    from neuclip.cli.budget import alternatives_table, budget_lines, budget_table

    found = plan_budget(recipe, samples=samples, seconds=seconds, tflops=tflops)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    Console().print(budget_table(found))
    _print_lines(budget_lines(found))
    Console().print(alternatives_table(found))


def _load(recipe: str, overrides: list[str] | None) -> Recipe:
    return load_recipe(recipe, dict(parse_override(text) for text in overrides or []))


def _run_and_show(recipe: Recipe, stages: tuple[str, ...], *, force: bool, as_json: bool) -> None:
    with LiveProgress(screen).shown() as progress:
        reports = run_journey(recipe, stages=stages, force=force, progress=progress)
    result = _result(recipe, reports)
    if as_json:
        print_json(result)
        return
    out = Console()
    out.print(stages_table(reports))
    if result["scores"]:
        out.print()
        out.print(scores_table(result["scores"]))
    for name in ("model", "report"):
        if result[name]:
            out.print(
                f"\n{name}  {result[name]}", markup=False, highlight=False, soft_wrap=True, end=""
            )
    out.print()


def _result(recipe: Recipe, reports: list[StageReport]) -> dict[str, Any]:
    by_name = {report.stage: report for report in reports}
    published, evaluated = by_name.get("publish"), by_name.get("evaluate")
    return {
        "root": recipe.root,
        "stages": {
            report.stage: {
                "key": report.key,
                "uri": report.uri,
                "state": report.state,
                "ledger": report.manifest.ledger.model_dump(by_alias=True),
                "seconds": report.seconds,
            }
            for report in reports
        },
        "model": join(published.uri, "model") if published else None,
        "report": join(published.uri, "report.html") if published else None,
        "scores": json.loads(committed_bytes(evaluated.uri, "scores.json")) if evaluated else [],
    }


def _lineage(root: str, inputs: dict[str, str]) -> dict[str, Any]:
    """Return the stages above, each with its ledger and its own inputs; other inputs with their fingerprint."""
    lineage: dict[str, Any] = {}
    for name, key in inputs.items():
        if name not in NAMES:
            lineage[name] = {"fingerprint": key}
            continue
        manifest = read_manifest(join(root, name, key))
        lineage[name] = {
            "uri": join(root, name, key),
            "ledger": manifest.ledger.model_dump(by_alias=True),
            "code_version": manifest.code_version,
            "started_at": manifest.started_at,
            "inputs": manifest.inputs,
        }
    return lineage


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _print_finding(check: str, state: str, says: str) -> None:
    colour = {"ok": "green", "warning": "yellow", "error": "red"}[state]
    out = Console()
    out.print(f"[{colour}]{state:<8}[/] {check:<12} ", end="")
    out.print(says, markup=False, highlight=False)
