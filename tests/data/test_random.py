"""Counter-based random numbers, compared with SplitMix64 in Python's integers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saltray.data.random import random_int64, random_uniform, tile_keys

WORD = 1 << 64


def splitmix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % WORD
    return value ^ (value >> 31)


def expected(key: int, salts: list[int]) -> int:
    for salt in salts:
        key = splitmix((key + (salt + 1) * 0x9E3779B97F4A7C15) % WORD)
    return key


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_hash_is_splitmix64(key: int, salts: list[int]) -> None:
    word = expected(key % WORD, salts)
    assert int(random_int64(torch.tensor([key]), *salts)) % WORD == word
    tensors = [torch.tensor([[salt]]) for salt in salts]
    assert int(random_int64(torch.tensor([[key]]), *tensors)) % WORD == word
    assert float(random_uniform(torch.tensor([key]), *salts)) == (word >> 40) / 2**24


def test_uniform_numbers_are_uniform_and_uncorrelated() -> None:
    draws = random_uniform(torch.arange(20_000)[:, None], 0, 3, torch.arange(4))
    assert draws.shape == (20_000, 4)
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1
    counts = torch.histc(draws, bins=16, min=0, max=1)
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 45  # chi2 of 15 degrees of freedom: p = 1e-4
    assert float(torch.corrcoef(draws.t()).fill_diagonal_(0).abs().max()) < 0.04


def test_keys_are_stable_and_distinct() -> None:
    # printf a | b2sum -l 64
    by_b2sum = [bytes.fromhex("40f89e395b66422f"), bytes.fromhex("8472c2e34d854f75")]
    assert tile_keys(["a", "b"]).tolist() == [int.from_bytes(digest, "little", signed=True) for digest in by_b2sum]
    assert len(set(tile_keys(f"{i:x}" for i in range(4000)).tolist())) == 4000
