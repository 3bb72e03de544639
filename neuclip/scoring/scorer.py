"""What every scorer does: values for the pairs of a partition, and a reason for each pair without one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from neuclip.scoring.pairs import Partition

NOT_ACQUIRED = "not_acquired"
UNDECODABLE = "undecodable_image"
NO_CAPTION = "no_caption"
NOT_FINITE = "not_finite"

Array = npt.NDArray[np.float16] | npt.NDArray[np.uint64] | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Scored:
    """The scores of a partition, aligned with its rows."""

    columns: dict[str, pa.Array]
    """Name -> values, null where there is none."""
    reasons: list[str | None]
    """Why a row has no value, None where it has one."""
    arrays: Mapping[str, Array] = field(default_factory=dict[str, Array])
    """Name of a .npy file -> [rows, width], zeros where there is no value."""


class Scorer(Protocol):
    """Scores the pairs of partitions; loads what it needs when it is first used."""

    model: str
    """What the values depend on besides settings and pairs: a hash of weights, or the version of a library."""

    def score(self, partition: Partition) -> Scored:
        """Score every row of a partition."""
        ...

    def record(self) -> dict[str, Any]:
        """Return what a reader of the column should know: model hash, resize, precision."""
        ...
