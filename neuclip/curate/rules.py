"""The rules as one SQL query: every row of the acquired Parquet, judged."""

from neuclip.curate.config import CurateConfig

_ALT = "captions['alt'][1]"


def row_rules(config: CurateConfig) -> dict[str, str]:
    """Return reason -> SQL condition under which a pair is dropped, looking at its own row only, in order of trial."""
    longest, shortest = (
        "greatest(original_width, original_height)",
        "least(original_width, original_height)",
    )
    words = r"len(regexp_extract_all(alt, '\S+'))"
    rules: dict[str, tuple[str, float | None]] = {
        "no_caption": ("alt IS NULL OR length(trim(alt)) = 0", 0),
        "caption_too_short": ("length(alt) < {}", config.min_chars),
        "caption_too_long": ("length(alt) > {}", config.max_chars),
        "too_few_words": (words + " < {}", config.min_words),
        "too_many_words": (words + " > {}", config.max_words),
        "image_too_small": (shortest + " < {}", config.min_side_px),
        "aspect_ratio": (longest + " > {} * " + shortest, config.max_aspect_ratio),
    }
    return {
        reason: sql.format(bound) for reason, (sql, bound) in rules.items() if bound is not None
    }


def group_rules(config: CurateConfig) -> dict[str, tuple[str, str]]:
    """Return reason -> (what equal pairs have in common, which of them is best), tried on what the row rules kept."""
    rules: dict[str, tuple[str, str]] = {}
    if config.drop_duplicate_pairs:
        rules["duplicate_pair"] = ("url, alt", "uid")
    if config.drop_duplicate_images:
        rules["duplicate_image"] = ("sha256", "length(alt) DESC, uid")
    return rules


def verdict_query(config: CurateConfig) -> str:
    """Return the query over the Parquet files in parameter `rows`.

    The thresholds are numbers of a validated recipe, so they stand in the text; names of files are parameters.
    """
    cases = " ".join(
        f"WHEN {condition} THEN '{reason}'" for reason, condition in row_rules(config).items()
    )
    steps = [
        f"""acquired AS (
            SELECT row_number() OVER () AS position, uid, url, sha256, original_width, original_height,
                   {_ALT} AS alt
            FROM read_parquet($rows) WHERE status = 'success')""",
        f"judged_0 AS (SELECT *, CASE {cases} END AS reason FROM acquired)",
    ]
    for number, (reason, (common, best)) in enumerate(group_rules(config).items(), start=1):
        steps.append(
            f"""judged_{number} AS (
            SELECT * EXCLUDE (reason), CASE
                WHEN reason IS NOT NULL THEN reason
                WHEN row_number() OVER (PARTITION BY (reason IS NULL), {common} ORDER BY {best}) > 1 THEN '{reason}'
            END AS reason FROM judged_{number - 1})"""
        )
    return f"""WITH {", ".join(steps)}
        SELECT uid, reason IS NULL AS kept, reason FROM judged_{len(steps) - 2} ORDER BY position"""
