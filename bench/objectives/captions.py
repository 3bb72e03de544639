"""What further texts of the same pictures are worth at equal samples: LaCLIP's sampling against the alt text alone."""

from collections.abc import Iterator
from pathlib import Path

from bench.objectives.records import SEEDS, Record, Settings, cell, grouped, markdown, read
from bench.objectives.rivals import NETWORK

RECORDS = "captions.jsonl"
COUNT, BATCH = 14_682, 64
FIXED: Settings = {"temperature_init": 0.07, "learn_temperature": False}
SIZES = (44_032, 176_128)
"""Samples seen: three passes, and twelve."""
POLICIES: dict[str, Settings] = {
    "alt alone": {"kind": "per_source"},
    "alt and extras alike": {"kind": "per_caption", "sources": ["extra"]},
}
OBJECTIVES: dict[str, Settings] = {
    "neuclip": {"name": "neuclip", **FIXED, "estimator": NETWORK},
}
_NOTE = """The extras are what people wrote of the same things for other ends: lists of keywords, shortcodes, product
descriptions. All scores are of names, which are the alt texts. The loss carries its factor tau and the norm of its
gradient is limited to 1; the trainer takes it in nats per anchor since.
"""
METRICS = {
    "image_to_text": "image to text R@1, %",
    "text_to_image": "text to image R@1, %",
    "zero_shot": "zero-shot, %",
}


def grid() -> Iterator[Settings]:
    """Yield the settings of all runs, the short ones first."""
    for samples in SIZES:
        for objective in OBJECTIVES.values():
            for seed in SEEDS:
                for name, policy in POLICIES.items():
                    yield {
                        "study": "captions",
                        "name": name,
                        "objective": objective,
                        "image_px": 32,
                        "data": "pairs",
                        "count": COUNT,
                        "lr": 1e-3,
                        "seed": seed,
                        "batch": BATCH,
                        "samples": samples,
                        "captions": policy,
                    }


def report(folder: Path) -> str:
    """Return a table a size of run: each policy, and what it gains over the alt text alone, seed by seed."""
    found = grouped(read(folder / RECORDS), "samples")
    parts = [_NOTE] if found else []
    for (samples,), records in found.items():
        title = f"## pairs: n {COUNT}, batch {BATCH}, {samples} samples seen"
        parts.append(f"{title}\n\n{_table(records)}")
    return "\n".join(parts)


def _table(records: list[Record]) -> str:
    by_name = {name: runs for (name,), runs in grouped(records, "name").items()}
    alone = {run["settings"]["seed"]: run for run in by_name["alt alone"]}
    rows: list[list[str]] = []
    for name, runs in by_name.items():
        row = [name, str(len(runs))]
        for metric in METRICS:
            row.append(cell(run[metric] for run in runs))
            pairs = [(run, alone.get(run["settings"]["seed"])) for run in runs]
            gains = [run[metric] - other[metric] for run, other in pairs if other]
            row.append(cell(gains) if name != "alt alone" else "")
        rows.append(row)
    header = ["texts", "seeds"]
    for title in METRICS.values():
        header += [title, "gain, same seeds"]
    return markdown(header, rows)
