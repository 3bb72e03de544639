"""How close estimators come to the exact log-normalizers, all of them watching the same run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.objectives.observers import IMPLIED, MINI_BATCH
from bench.objectives.records import Record, Settings, cell, grouped, markdown, mean_std, read

RECORDS = "estimation.jsonl"
SOURCE_RECORDS = "sources.jsonl"
EPS, TEMPERATURE, SEEDS = 1e-8, 0.05, (0, 1, 2)
SCENES, FEW_SCENES, PAIRS = 16_000, 1_600, 14_682
BATCH, HALF_BATCH, EPOCHS = 64, 32, 4
STUDIES = {
    ("scenes", SCENES, BATCH): "scenes, n 16,000, B 64",
    ("pairs", PAIRS, BATCH): "real pairs, n 14,682, B 64",
}
# Of what to what an estimator's error grows, at the same number of epochs or of steps.
GROWTHS = {
    "B 64 → 32 (n 16,000)": (("scenes", SCENES, BATCH), ("scenes", SCENES, HALF_BATCH)),
    "n 1,600 → 16,000 (B 64)": (("scenes", FEW_SCENES, BATCH), ("scenes", SCENES, BATCH)),
}
# Where prototypes restart from, with the paper's and with the best settings of the network.
SOURCES = ("recent", "batch", "index")
SOURCE_SETTINGS = {"T_u 10, T_r 500": (10, 500), "T_u 1, T_r 100": (1, 100)}
BEST_QUEUES = ("FIFO 1024", "FIFO 2048", "FIFO 4096", "FIFO 15000")
_OF_GROWTH = (
    "NPN m 1024, T_u 10, T_r 100",
    "NPN m 1024, T_u 5, T_r 500, offset",
    "NPN m 64, T_u 10, T_r 500",
    "FIFO 64",
    "FIFO 1024",
    "FIFO 4096",
    "aged queue 15000",
    "FastCLIP gamma 0.6",
    "FastCLIP gamma 0.2",
)


def grid() -> Iterator[Settings]:
    """Yield the settings of all runs."""
    for seed in SEEDS:
        for name, count, batch in (*STUDIES, *_extra_studies()):
            steps = EPOCHS * (count if batch == HALF_BATCH else _full(name)) // batch
            yield settings(name, count=count, batch=batch, samples=steps * batch, seed=seed)


def sources_grid() -> Iterator[Settings]:
    """Yield the runs of the first studies again, with a network for each source of prototypes."""
    observers = {
        f"{source}, m 1024, {title}": network(1024, *steps, source=source)
        for title, steps in SOURCE_SETTINGS.items()
        for source in SOURCES
    }
    for seed in SEEDS:
        for name, count, batch in STUDIES:
            samples = EPOCHS * count // batch * batch
            run = settings(name, count=count, batch=batch, samples=samples, seed=seed)
            yield run | {"study": "sources", "observers": observers}


def settings(name: str, *, count: int, batch: int, samples: int, seed: int) -> Settings:
    """Return the settings of a run at a fixed temperature."""
    observers = estimators(count, epochs=samples // count)
    if (name, count, batch) not in STUDIES:
        observers = {name: observers[name] for name in _OF_GROWTH}
    return {
        "study": "estimation",
        "data": name,
        "count": count,
        "image_px": 32,
        "objective": {
            "name": "openclip",
            "temperature_init": TEMPERATURE,
            "learn_temperature": False,
        },
        "lr": 1e-3,
        "seed": seed,
        "batch": batch,
        "samples": samples,
        "observers": observers,
        "checkpoints": 4,
        "anchors": 1000,
        "eps": EPS,
    }


def estimators(count: int, *, epochs: int) -> dict[str, Settings]:
    """Return what watches a run: configurations of objectives by name; none holds more than n pairs."""
    found = {
        "NPN m 1024, T_u 10, T_r 100": network(1024, 10, 100),
        "NPN m 1024, T_u 1, T_r 100": network(1024, 1, 100),
        "NPN m 1024, T_u 10, T_r 500": network(1024, 10, 500),
        "NPN m 1024, T_u 5, T_r 500, offset": network(1024, 5, 500, offset_decay=0.97),
        "NPN m 1024, T_u 10, T_r 500, lr 0.003": network(1024, 10, 500, inner_lr=0.003),
        "NPN m 1024, T_u 10, T_r 500, lr 0.003, offset": network(
            1024, 10, 500, inner_lr=0.003, offset_decay=0.97
        ),
        "NPN m 4096, T_u 10, T_r 500": network(4096, 10, 500),
        "NPN m 64, T_u 10, T_r 500": network(64, 10, 500),
        "aged queue 15000": neuclip({"name": "aged_queue", "num_pairs": min(15_000, count)}),
    }
    for size in (64, 1024, 2048, 4096, 15_000):
        queue = {"name": "queue", "num_pairs": min(size, count)}
        found[f"FIFO {size}"] = neuclip(queue)
    for gamma in (0.6, 0.2):
        found[f"FastCLIP gamma {gamma}"] = {
            "name": "fastclip",
            "version": "v1",
            "gamma_min": gamma,
            "gamma_decay_epochs": max(1, epochs // 2),
            "eps": EPS,
        }
    return found


def network(
    prototypes: int, inner_steps: int, restart_every: int, inner_lr: float = 0.01, **more: Any
) -> Settings:
    """Return NeuCLIP with its normalizer network."""
    section = {
        "name": "network",
        "num_prototypes": prototypes,
        "inner_steps": inner_steps,
        "restart_every": restart_every,
        "inner_lr": inner_lr,
        **more,
    }
    return neuclip(section)


def neuclip(estimator: Settings) -> Settings:
    """Return NeuCLIP with an estimator."""
    return {"name": "neuclip", "eps": EPS, "estimator": estimator}


def report(folder: Path) -> str:
    """Return the tables of all records in the folder as markdown."""
    runs = grouped(read(folder / RECORDS), "data", "count", "batch")
    parts = []
    for study, title in STUDIES.items():
        if study in runs:
            parts.append(f"## {title}\n\n{_table(runs[study])}")
    sources = grouped(read(folder / SOURCE_RECORDS), "data", "count", "batch")
    for study, title in STUDIES.items():
        if study in sources:
            parts.append(f"## Where prototypes restart from: {title}\n\n{_table(sources[study])}")
    growth = _growth_table(runs)
    if growth:
        parts.append(f"## Growth of the mean MSE\n\n{growth}")
    return "\n".join(parts)


def mean_mse(record: Record, name: str) -> float:
    """Return an estimator's MSE, the mean over checkpoints."""
    return mean_std(point["rows"][name]["mse"] for point in record["estimation"])[0]


def _table(records: list[Record]) -> str:
    exact = [point["exact"] for record in records for point in record["estimation"][-1:]]
    names = list(records[0]["estimation"][0]["rows"])
    names.sort(key=lambda name: mean_std(mean_mse(record, name) for record in records)[0])
    rows = []
    for name in names:
        last = [record["estimation"][-1]["rows"][name] for record in records]
        checkpoints = [
            f"{mean_std(record['estimation'][i]['rows'][name]['mse'] for record in records)[0]:.3f}"
            for i in range(len(records[0]["estimation"]))
        ]
        rows.append(
            [
                name,
                cell((mean_mse(record, name) for record in records), 3),
                *checkpoints,
                cell((row["bias"] for row in last), 2),
                cell((row["correlation"] for row in last), 2),
            ]
        )
    header = ["estimator", "mean MSE", "1/4", "2/4", "3/4", "end", "bias, end", "correlation, end"]
    about = (
        f"{len(records)} seeds; a* at the end {cell((row['mean'] for row in exact), 2)}, "
        f"its spread over anchors {cell((row['std'] for row in exact), 2)}; "
        f"the run's R@1 {cell(record['recall'] for record in records)} %.\n\n"
    )
    return about + markdown(header, rows)


def _growth_table(runs: Any) -> str:
    known = {title: pair for title, pair in GROWTHS.items() if all(part in runs for part in pair)}
    if not known:
        return ""
    rows = [[name] for name in (MINI_BATCH, IMPLIED, *_OF_GROWTH)]
    for before, after in known.values():
        for row in rows:
            grown = growth(runs[before], runs[after], row[0])
            low = mean_std(mean_mse(record, row[0]) for record in runs[before])[0]
            row += [f"{low:.3f}", cell(grown, 3)]
    header = ["estimator"]
    for title in known:
        header += [f"before {title}", "change"]
    return markdown(header, rows)


def growth(before: list[Record], after: list[Record], name: str) -> list[float]:
    """Return the change of an estimator's mean MSE for each seed that both have."""
    of_seed = {record["settings"]["seed"]: mean_mse(record, name) for record in before}
    return [
        mean_mse(record, name) - of_seed[record["settings"]["seed"]]
        for record in after
        if record["settings"]["seed"] in of_seed
    ]


def _extra_studies() -> list[tuple[str, int, int]]:
    return [study for pair in GROWTHS.values() for study in pair if study not in STUDIES]


def _full(name: str) -> int:
    """Return the size of a data set, which the small part of it is trained as long as."""
    return PAIRS if name == "pairs" else SCENES
