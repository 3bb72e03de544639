"""Keyed random numbers: each drawn value is a pure function of what it is for.

Nothing draws from a shared generator, so results depend neither on the number of workers nor on the
order in which samples are read.
"""

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1


def generator(
    seed: int, *, epoch: int = 0, sample_id: int = 0, view: int = 0
) -> np.random.Generator:
    """Return the random generator of one view of one sample in one epoch."""
    counter = np.array(
        [0, sample_id & _MASK_64, epoch & _MASK_64, view & _MASK_64], dtype=np.uint64
    )
    return np.random.Generator(np.random.Philox(key=seed & _MASK_64, counter=counter))


def keyed_hash(values: npt.ArrayLike, *, seed: int, epoch: int = 0) -> npt.NDArray[np.uint64]:
    """Hash integers with splitmix64 under a seed and an epoch: uniform over 64 bits, one-to-one for a fixed key."""
    with np.errstate(over="ignore"):
        key = _mix(np.uint64(seed & _MASK_64) * _GOLDEN + np.uint64(epoch & _MASK_64))
        return _mix(np.asarray(values, dtype=np.uint64) * _GOLDEN + key)


def permutation(count: int, *, seed: int, epoch: int = 0, first: int = 0) -> npt.NDArray[np.int64]:
    """Return the keyed permutation of first .. first+count-1: the order of their hashes."""
    members = np.arange(first, first + count, dtype=np.int64)
    return members[np.argsort(keyed_hash(members, seed=seed, epoch=epoch), kind="stable")]


def _mix(x: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    """Finish splitmix64 (Steele, Lea and Flood 2014)."""
    x = np.asarray(x)
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))
