"""What each objective is worth at equal data, each at its own best learning rate (and rho)."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.objectives.records import Record, Settings, cell, grouped, markdown, mean_std, read

RECORDS, LONG_RECORDS = "quality.jsonl", "long.jsonl"
SEEDS, RATES, BATCH = (0, 1, 2), (5e-4, 1e-3, 2e-3), 64
FIXED: Settings = {"temperature_init": 0.07, "learn_temperature": False}
AVERAGES: Settings = {"gamma_decay_epochs": 2, "gamma_min": 0.6}
NETWORK: Settings = {
    "name": "network",
    "num_prototypes": 1024,
    "inner_steps": 5,
    "restart_every": 100,
    "inner_lr": 0.01,
}
AGED: Settings = {"name": "aged_queue", "num_pairs": 8000}
OBJECTIVES: dict[str, Settings] = {
    "openclip": {"name": "openclip", **FIXED},
    "neuclip": {"name": "neuclip", **FIXED, "estimator": NETWORK},
    "neuclip, aged queue": {"name": "neuclip", **FIXED, "estimator": AGED},
    "fastclip v3": {"name": "fastclip", "version": "v3", **AVERAGES, **FIXED},
    "siglip": {"name": "siglip"},
    "neuclip, queue": {
        "name": "neuclip",
        **FIXED,
        "estimator": {"name": "queue", "num_pairs": 4096},
    },
    "fastclip v1": {"name": "fastclip", "version": "v1", **AVERAGES, **FIXED},
    "fastclip v0": {"name": "fastclip", "version": "v0", **AVERAGES},
    "fastclip v2": {
        "name": "fastclip",
        "version": "v2",
        **AVERAGES,
        "individual_temperature_init": 0.07,
        "individual_temperature_lr": 1e-3,
        "rho": 3.0,
    },
    "sogclr": {"name": "sogclr", "temperature": 0.07},
    "isogclr": {"name": "isogclr", "temperature_init": 0.07, "temperature_lr": 1e-3, "rho": 3.0},
    # With its networks' own values it hardly learns in so few steps: R@1 0.7 at one seed.
    "amorlip": {
        "name": "amorlip",
        **FIXED,
        "encoder_normalizer": "target",
        "smoothing_epochs": 2,
        "late_rho_from_epoch": 1,
    },
}
# Data set: pairs, samples seen, and which objectives are trained on it.
STUDIES: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "scenes": (8_000, 32_000, tuple(OBJECTIVES)),
    "pairs": (14_682, 44_032, tuple(OBJECTIVES)[:5]),
}
# Learned temperature with rho, small batches, many passes: where the published advantage should be.
LONG_COUNT, LONG_EPOCHS, LONG_BATCHES = 4_000, 10, (16, 64)
LONG_RATES, LONG_RHOS = (1e-3, 2e-3), (4.0, 6.0, 7.0)
TEMPERATURE_LR = 5e-3
LONG_OBJECTIVES: dict[str, Settings] = {
    "openclip": {"name": "openclip"},
    "neuclip": {"name": "neuclip", "estimator": NETWORK},
    "neuclip, aged queue": {
        "name": "neuclip",
        "estimator": {"name": "aged_queue", "num_pairs": 3900},
    },
    "fastclip v3": {
        "name": "fastclip",
        "gamma_min": 0.2,
        "gamma_decay_epochs": LONG_EPOCHS // 2,
    },
}


def grid() -> Iterator[Settings]:
    """Yield the settings of all runs; what matters most comes first."""
    for place in range(len(OBJECTIVES)):
        for data, (count, samples, names) in STUDIES.items():
            if place >= len(names):
                continue
            for seed in SEEDS:
                for lr in RATES:
                    yield _settings("quality", names[place], OBJECTIVES[names[place]]) | {
                        "data": data,
                        "count": count,
                        "lr": lr,
                        "seed": seed,
                        "batch": BATCH,
                        "samples": samples,
                    }


def long_grid() -> Iterator[Settings]:
    """Yield the settings of the long runs: one rate at every rho, and the other rates at one rho."""
    for lr in LONG_RATES:
        for rho in LONG_RHOS if lr == LONG_RATES[0] else LONG_RHOS[:1]:
            for seed in SEEDS:
                for batch in reversed(LONG_BATCHES):
                    for name, objective in LONG_OBJECTIVES.items():
                        learned: Settings = {"temperature_lr": TEMPERATURE_LR}
                        if name != "openclip":
                            learned["rho"] = rho
                        elif rho != LONG_RHOS[0]:
                            continue  # it has no rho
                        yield _settings("long", name, objective | learned) | {
                            "data": "scenes",
                            "count": LONG_COUNT,
                            "lr": lr,
                            "seed": seed,
                            "batch": batch,
                            "samples": LONG_COUNT * LONG_EPOCHS,
                        }


def _settings(study: str, name: str, objective: Settings) -> Settings:
    return {"study": study, "name": name, "objective": objective, "image_px": 32}


def report(folder: Path) -> str:
    """Return a table a data set: every objective at its own best rate."""
    parts: list[str] = []
    for data, records in grouped(read(folder / RECORDS), "data").items():
        count, samples, _ = STUDIES[data[0]]
        title = f"## {data[0]}: n {count}, batch {BATCH}, {samples} samples seen"
        parts.append(f"{title}\n\n{_table(records)}")
    return "\n".join(parts)


def long_report(folder: Path) -> str:
    """Return a table a batch size of the long runs."""
    parts: list[str] = []
    for batch, records in grouped(read(folder / LONG_RECORDS), "batch").items():
        title = (
            f"## scenes: n {LONG_COUNT}, batch {batch[0]}, {LONG_EPOCHS} epochs, "
            "learned temperature"
        )
        parts.append(f"{title}\n\n{_table(records)}")
    return "\n".join(parts)


def best_choice(records: list[Record]) -> list[Record]:
    """Return the runs at the rate (and rho, where there is one) with the highest mean recall."""
    choices: defaultdict[tuple[float, float | None], list[Record]] = defaultdict(list)
    for run in records:
        choices[_choice(run)].append(run)
    whole = max(len(runs) for runs in choices.values())  # a choice with a seed missing may be luck
    complete = [runs for runs in choices.values() if len(runs) == whole]
    return max(complete, key=lambda runs: mean_std(run["recall"] for run in runs)[0])


def _choice(run: Record) -> tuple[float, float | None]:
    settings = run["settings"]
    return settings["lr"], settings["objective"].get("rho")


def _table(records: list[Record]) -> str:
    by_name = {name[0]: best_choice(runs) for name, runs in grouped(records, "name").items()}
    reference = {run["settings"]["seed"]: run for run in by_name["openclip"]}
    rows: list[list[str]] = []
    for name, runs in by_name.items():
        pairs = [(run, reference.get(run["settings"]["seed"])) for run in runs]
        gains = [run["recall"] - other["recall"] for run, other in pairs if other]
        rate, rho = _choice(runs[0])
        rows.append(
            [
                name,
                f"{rate:g}",
                "" if rho is None else f"{rho:g}",
                str(len(runs)),
                cell(run["recall"] for run in runs),
                cell(gains) if name != "openclip" else "",
                cell(run["zero_shot"] for run in runs),
                f"{mean_std(_last_temperature(run) for run in runs)[0]:.3f}",
                f"{100 * mean_std(run['clipped_share'] for run in runs)[0]:.0f} %",
                f"{mean_std(run['samples_per_s'] for run in runs)[0]:.0f}",
            ]
        )
    rows.sort(key=lambda row: -float(row[4].split()[0]))
    header = [
        "objective",
        "rate",
        "rho",
        "seeds",
        "R@1, %",
        "over openclip, same seeds",
        "zero-shot, %",
        "temperature at the end",
        "steps clipped",
        "samples/s",
    ]
    return markdown(header, rows)


def _last_temperature(run: dict[str, Any]) -> float:
    return run["curve"][-1][2]
