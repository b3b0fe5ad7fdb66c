"""Counter-based random numbers: a pure function of keys and salts, without generator state.

A number is a hash of (tile, seed, epoch, purpose), so it does not depend on the order of tiles, the batch, the number
of ranks or the device, and no state has to be saved to resume. The hash is SplitMix64's finaliser (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", 2014), in wrap-around int64 arithmetic.
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

_BITS = 64


def _signed(value: int) -> int:
    """`value` modulo 2**64, as the int64 of the same bits."""
    value %= 1 << _BITS
    return value - (1 << _BITS) if value >= 1 << (_BITS - 1) else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def tile_keys(ids: Iterable[str]) -> Tensor:
    """One int64 key per id, the same on every machine: int64 [N] on the CPU."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def random_int64(keys: Tensor, *salts: int | Tensor) -> Tensor:
    """Uniform int64 numbers from int64 `keys` and salts: integers from 0, or int64 tensors that broadcast with them."""
    for salt in salts:
        step = (salt + 1) * _GOLDEN if isinstance(salt, Tensor) else _signed((salt + 1) * _GOLDEN)
        keys = _mix(keys + step)
    return keys


def random_uniform(keys: Tensor, *salts: int | Tensor) -> Tensor:
    """Uniform float32 numbers in [0, 1), of the shape of `random_int64(keys, *salts)`."""
    return _shifted(random_int64(keys, *salts), 40).float() * 2.0**-24


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser."""
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (z >> bits) & ((1 << (_BITS - bits)) - 1)
