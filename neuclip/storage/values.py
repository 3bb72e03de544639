"""What DuckDB gives as JSON values."""

import math
from typing import Any


def plain(value: Any) -> Any:  # noqa: ANN401  # what DuckDB gives
    """Turn a value into JSON: what has no number there (nan, inf) and dates become text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {str(name): plain(item) for name, item in value.items()}
        case bytes():
            return value.hex()
        case _:
            return str(value)
