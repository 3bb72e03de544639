"""How numbers and times are written in the card and the report."""

_MINUTE_S, _HOUR_S = 60, 3600
_SPACE = "\N{NARROW NO-BREAK SPACE}"


def percent(share: float) -> str:
    """Write a share of 0..1 with three digits: 41.3 %, 0.27 %."""
    value = 100 * share
    digits = 1 if value >= 1 or value == 0 else 2
    return f"{value:.{digits}f}{_SPACE}%"


def count(number: int) -> str:
    """Write a count with thin spaces between thousands."""
    return f"{number:,}".replace(",", _SPACE)


def seconds(duration_s: float) -> str:
    """Write a duration: 4.2 s, 3 min 20 s, 5 h 12 min."""
    if duration_s < _MINUTE_S:
        return f"{duration_s:.1f} s"
    if duration_s < _HOUR_S:
        return f"{int(duration_s // _MINUTE_S)} min {int(duration_s % _MINUTE_S)} s"
    return f"{int(duration_s // _HOUR_S)} h {int(duration_s % _HOUR_S // _MINUTE_S)} min"


def words(name: str) -> str:
    """Write a name of the code as words: mean_recall_at_1 becomes mean recall@1."""
    return name.replace("_at_", "@").replace("_", " ")
