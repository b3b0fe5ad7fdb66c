import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

from saltray.errors import ConfigError
from saltray.storage.formats import FormatError, decode_json, decode_record, decode_table, encode_json, encode_table

CANONICAL = """{
  "a": {
    "ü": true
  },
  "b": [
    1,
    2.5,
    null
  ]
}
"""


@dataclass(frozen=True)
class Rate:
    value: float
    unit: str = "s"

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ConfigError(f"value is {self.value}; use 0 or more")


def decode_rate(data: bytes) -> Rate:
    return decode_record(data, Rate)


def test_json_is_canonical() -> None:
    value = {"b": [1, 2.5, None], "a": {"ü": True}}
    for ordered in (value, dict(reversed(value.items()))):
        assert encode_json(ordered).decode() == CANONICAL
    assert decode_json(CANONICAL.encode()) == value == json.loads(CANONICAL)


def test_bytes_that_are_no_letters_are_refused_with_their_place() -> None:
    with pytest.raises(
        ConfigError, match=r"""^'  "data": "/tiles/\\udcff", *' is not text in this locale; set LC_ALL=C.UTF-8"""
    ):
        encode_json({"a": 1, "data": "/tiles/\udcff", "z": 2})


def test_nan_is_not_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_json({"loss": math.nan})


def test_tables_round_trip() -> None:
    table = pa.table({"id": ["a", "b"], "image": [b"\0\1", b""], "fold": pa.array([1, None], pa.int8())})
    data = encode_table(table)
    assert decode_table(data).equals(table)
    assert encode_table(table) == data


def test_a_record_without_its_defaults() -> None:
    assert decode_rate(b'{"value": 1}') == Rate(1.0)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b'{"value": "1"}', 'value is "1"; it should be a valid number'),
        (b'{"unit": "h"}', "value is missing"),
        (b'{"value": 1, "units": "h"}', "units is unknown; did you mean unit?"),
        (b"[]", "the record is []; "),
        (b'{"value": 1, "unit": "\xff"}', "not JSON: "),
    ],
)
def test_what_is_not_a_record_of_the_kind(data: bytes, fault: str) -> None:
    with pytest.raises(FormatError) as caught:
        decode_rate(data)
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


def test_an_impossible_value_is_refused_by_the_kind_itself() -> None:
    with pytest.raises(ConfigError, match=r"value is -1\.0; use 0 or more"):
        decode_rate(b'{"value": -1}')


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"PAR1", b"[" * 100_000], ids=lambda data: repr(data[:4]))
@pytest.mark.parametrize(
    ("decode", "fault"), [(decode_json, "not JSON: "), (decode_rate, ""), (decode_table, "not Parquet: ")]
)
def test_corrupted_bytes(decode: Callable[[bytes], Any], fault: str, data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        decode(data)
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary())])


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (pa.table({"id": ["a", "b"]}), "no column image of binary"),
        (pa.table({"id": ["a", "b"], "image": ["a", "b"]}), "no column image of binary"),
        (pa.table({"id": [1, 2], "image": [b"a", b"b"]}), "no column id of string"),
        (pa.table({"id": ["a", None], "image": [b"a", b"b"]}), "column id has nulls"),
        (pa.table({"id": ["a"], "image": [b"a"]}), "it has 1 rows instead of 2"),
        (pa.table({"id": ["a"] * 10**6, "image": [b"\0" * 100] * 10**6}), "it has 1000000 rows instead of 2"),
    ],
)
def test_a_table_of_other_columns_or_rows(table: pa.Table, fault: str) -> None:
    with pytest.raises(FormatError, match=fault):
        decode_table(encode_table(table), schema=SCHEMA, rows=2)


def test_text_of_a_table_is_utf8() -> None:
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
    with pytest.raises(FormatError, match="not Parquet: .*UTF8"):
        decode_table(encode_table(pa.table({"id": text})))
