"""Numbers in a `.npy` member of an untrusted sample; nothing is unpickled."""

import io

import numpy as np

from neuclip.foundation.errors import DataError
from neuclip.loading.tar_samples import TarSample

_MOST_BYTES = 1 << 20


def numbers_of(sample: TarSample) -> np.ndarray:
    """Return the whole numbers in the sample's .npy, int64 of one dimension.

    Raises: DataError: for anything else, objects above all, which would have to be unpickled.
    """
    content = sample.parts["npy"]
    if len(content) > _MOST_BYTES:
        raise DataError(
            f"{sample.key}.npy has {len(content)} bytes, expected at most {_MOST_BYTES}"
        )
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError) as error:
        raise DataError(f"{sample.key}.npy is no array of numbers: {str(error)[:120]}") from error
    if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "biuf":
        raise DataError(f"{sample.key}.npy does not hold a row of numbers")
    whole = found.astype(np.int64) if np.isfinite(found).all() else None
    if whole is None or not np.array_equal(whole, found):
        raise DataError(f"{sample.key}.npy holds numbers that are not whole")
    return whole
