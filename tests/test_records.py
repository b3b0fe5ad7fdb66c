"""Dataclasses to JSON and back: nothing but what fits, and a message of one line for what does not."""

import datetime as dt
import json
import math
import warnings
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field
from samples import STORED_CONFIG, STORED_EPOCH

from saltray.config import Config, ModelConfig, OptimConfig, SearchConfig, Values
from saltray.errors import ConfigError
from saltray.records import (
    MAX_EPOCHS,
    RECORD_BYTES,
    Count,
    Epoch,
    Fold,
    Fraction,
    Pixels,
    Rate,
    RecordError,
    Seconds,
    Sha256,
    digest,
    field_types,
    fits,
    flat,
    from_record,
    meant_choice,
    parse_json,
    parse_record,
    parse_word,
    replace_fields,
    to_record,
    type_text,
)
from saltray.runs.history import Record
from saltray.wording import excerpt


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigError(f"size is {self.size}; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class Whole:
    score: float
    kind: Literal["a", "b"] = "a"
    ready: bool = False
    limit: int | None = None
    parts: tuple[Part, ...] = ()
    first: Part = field(default_factory=lambda: Part(name="one"))
    baseline: Annotated[float, Field(alias="floor")] = 0.0
    search_provenance: Annotated[str | None, Field(alias="origin")] = None
    values: Values = field(default_factory=dict)


WHOLE = Whole(
    score=0.1 + 0.2,
    kind="b",
    ready=True,
    limit=3,
    parts=(Part(name="ü"), Part(name="y", size=2)),
    baseline=0.4,
    search_provenance="s1",
    values={"train.batch_size": 16, "optim.lr": 1.0, "model.is_deconv": True, "optim.optimizer": "adam"},
)
RECORD: dict[str, Any] = {
    "score": 0.1 + 0.2,
    "kind": "b",
    "ready": True,
    "limit": 3,
    "parts": [{"name": "ü", "size": 1}, {"name": "y", "size": 2}],
    "first": {"name": "one", "size": 1},
    "floor": 0.4,
    "origin": "s1",
    "values": WHOLE.values,
}


def fault(kind: Any, record: Any) -> str:
    """Why the record is refused, which is one line."""
    with pytest.raises(RecordError) as caught:
        from_record(kind, record)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# There and back


def test_a_dataclass_survives_json_under_its_aliases() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydantic warns of what it does not expect
        record = to_record(WHOLE)
    assert record == RECORD
    assert json.dumps(record) == json.dumps(RECORD)  # 1, 1.0 and True are equal
    read = from_record(Whole, record)
    assert read == WHOLE
    assert [type(value) for value in read.values.values()] == [int, float, bool, str]
    assert parse_record(Whole, json.dumps(record).encode()) == WHOLE


def test_what_a_record_leaves_out_has_its_default() -> None:
    assert from_record(Whole, {"score": 0.5}) == Whole(score=0.5)


def test_a_whole_number_stands_for_any_number_and_is_written_as_it_is() -> None:
    assert from_record(Whole, {"score": 1}).score == 1
    assert type(from_record(Whole, {"score": 1}).score) is float
    # Digests of configurations depend on it.
    plain = ModelConfig(decoder_batchnorm=False, deep_supervision=False)  # the defaults of the first digests
    config = Config(data="d", model=plain, optim=OptimConfig(clip_norm=1, warmup_epochs=0))
    assert json.dumps(to_record(config.optim)["clip_norm"]) == "1"
    assert digest(config.identity) == "651e79f915a6fd87fb964a553378d0d9bda1962e26a9bbca5be98684bae9c411"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    with pytest.raises(RecordError, match="^score is -?(NaN|Infinity); it should be a finite number$"):
        parse_record(Whole, f'{{"score": {number}}}')


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    # Stored identities are such digests, so this may never change.
    expected = "c949e8e6f8eac39c85af6cee31f6c830746613f82588c324490eec1dfcdf3509"
    assert digest({"a": 1, "b": [0.5, None]}) == digest({"b": [0.5, None], "a": 1}) == expected
    assert digest({"a": 1, "b": [None, 0.5]}) != expected


# Refused


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"score": "0.5"}, 'score is "0.5"; it should be a valid number'),
        ({"score": True}, "score is true; it should be a valid number"),
        ({"score": None}, "score is null; it should be a valid number"),
        ({"ready": 1}, "ready is 1; it should be a valid boolean"),
        ({"ready": "true"}, 'ready is "true"; it should be a valid boolean'),
        ({"limit": 1.0}, "limit is 1.0; it should be a valid integer"),
        ({"limit": "1"}, 'limit is "1"; it should be a valid integer'),
        ({"limit": False}, "limit is false; it should be a valid integer"),
        ({"kind": "c"}, "kind is \"c\"; it should be 'a' or 'b'"),
        ({"first": None}, "first is null; it should be an object"),
        ({"first": {"name": 3}}, "first.name is 3; it should be a valid string"),
        ({"parts": {}}, "parts is {}; it should be a valid array"),
        ({"parts": [{"name": "x"}, 3]}, "parts.1 is 3; it should be an object"),
        ({"parts": [{"name": "x", "size": []}]}, "parts.0.size is []; it should be a valid integer"),
        ({"origin": dt.date(2026, 1, 2)}, 'origin is {"date": "2026-01-02"}; it should be a valid string'),
    ],
)
def test_a_wrong_type_is_named(changes: dict[str, Any], expected: str) -> None:
    assert fault(Whole, RECORD | changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scores": 1.0}, "scores is unknown; did you mean score?"),
        ({"zzz": 1.0}, "zzz is unknown"),
        ({"parst": []}, "parst is unknown; did you mean parts?"),
        ({"frist": {"name": "x"}}, "frist is unknown; did you mean first?"),
        ({"size": 1}, "size is unknown; did you mean first.size?"),
        ({"first": {"name": "x", "sise": 3}}, "first.sise is unknown; did you mean first.size?"),
        ({"parts": [{"name": "x", "sise": 3}]}, "parts.0.sise is unknown"),
        ({"baseline": 0.4}, "baseline is unknown"),  # stored under its alias alone
        ({"search_provenance": "s1"}, "search_provenance is unknown"),
    ],
)
def test_an_unknown_field_is_named_and_the_one_that_was_meant(changes: dict[str, Any], expected: str) -> None:
    assert fault(Whole, RECORD | changes) == expected


def test_a_missing_field_is_named_unless_another_is_misspelt() -> None:
    assert fault(Whole, []) == "the record is []; it should be an object"
    assert fault(Whole, {}) == "score is missing"
    assert fault(Whole, {"score": 1.0, "parts": [{}]}) == "parts.0.name is missing"
    assert fault(Whole, {"skore": 1.0}) == "skore is unknown; did you mean score?"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"note": 3, "at": 1.0}, "NoteRecord.note is 3; it should be a valid string"),
        ({"note": "x", "at": 1.0, "extra": 1}, "NoteRecord.extra is unknown"),
        ({"resumed_after": "3", "at": 1.0}, 'ResumeRecord.resumed_after is "3"; it should be a valid integer'),
        (STORED_EPOCH | {"loss": None}, "EpochRecord.loss is null; it should be a valid number"),
        (STORED_EPOCH | {"extra": 1}, "EpochRecord.extra is unknown"),
    ],
)
def test_of_a_union_the_fault_is_that_of_the_nearest_member(record: Any, expected: str) -> None:
    assert fault(Record, record) == expected


def test_an_impossible_value_is_refused_by_its_own_class() -> None:
    with pytest.raises(ConfigError, match="^size is -1; use 0 or more$"):
        from_record(Whole, RECORD | {"first": {"name": "x", "size": -1}})


@pytest.mark.parametrize("text", ["{", '{"score": 1', "\xff", '{"score": 1} x'])
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(RecordError, match="^not JSON: [^\n]*line 1 column"):
        parse_record(Whole, text)


@pytest.mark.parametrize("text", ["", " ", '{"score": 1}, {"score": 2}'])
def test_a_text_has_one_value(text: str) -> None:
    with pytest.raises(RecordError, match="^the record is "):
        parse_record(Whole, text)


def test_a_huge_value_is_shown_cut() -> None:
    assert fault(Whole, {"score": "x" * 10**6}) == f'score is "{"x" * 79}...; it should be a valid number'
    assert fault(Whole, {"score": [[1] * 100] * 100}).startswith("score is [[1, 1, ")
    assert len(fault(Whole, {"score": [[1] * 100] * 100})) < 150
    assert excerpt("x" * 78) == f'"{"x" * 78}"'


@pytest.mark.parametrize("depth", [300, 100_000])
@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: {"a": inner}], ids=["list", "table"])
def test_deep_nesting_is_refused(depth: int, make: Any) -> None:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    assert fault(Whole, {"score": value}).startswith(("not JSON: recursion limit", "nested too deeply"))
    with pytest.raises(RecordError, match="recursion limit"):
        parse_record(Whole, "[" * depth)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"score": 1, "score": 2}', "not JSON: score is given twice"),
        (b'{"score": 1, "first": {"name": "x", "size": 1, "size": 1}}', "not JSON: size is given twice"),
        (b'\xef\xbb\xbf{"score": 1}', "not JSON: "),
        (b'{"score": 1, "kind": "\xff"}', "not JSON: 'utf-8' codec"),
        ('{"score": 1}'.encode("utf-16"), "not JSON: 'utf-8' codec"),
        (b'{"score": 1, "limit": ' + b"9" * 5000 + b"}", "not JSON: number out of range"),
        (b'{"score": 1}' + b" " * RECORD_BYTES, "it has more than 1,048,576 bytes"),
        (b'{"score": 1, "a\\nb\\u001b": 2}', '"a\\nb\\u001b" is unknown'),
        (b'{"score": 1, "' + b"x" * 1000 + b'": 2}', f'"{"x" * 79}... is unknown'),
    ],
)
def test_a_text_that_another_reader_would_take_otherwise_is_refused(text: bytes, expected: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse_record(Whole, text)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    if "unknown" not in expected and "more than" not in expected and "number" not in expected:
        with pytest.raises(RecordError, match="^not JSON: "):
            parse_json(text)


def test_a_kind_has_its_own_limit_of_bytes() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Long:
        MAX_BYTES: ClassVar[int] = 2 * RECORD_BYTES
        text: str

    text = json.dumps({"text": "x" * RECORD_BYTES})
    assert len(parse_record(Long, text).text) == RECORD_BYTES
    with pytest.raises(RecordError, match="more than 2,097,152 bytes"):
        parse_record(Long, text + " " * RECORD_BYTES)


@dataclass(frozen=True, kw_only=True)
class Limited:
    count: Count = 0
    fold: Fold = 0
    epoch: Epoch = 0
    side: Pixels = 1
    share: Fraction = 0.0
    seconds: Seconds = 0.0
    rate: Rate = 0.0
    sha256: Sha256 = "0" * 64


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("count", [0, 10**12], [-1, 10**13]),
        ("fold", [0, 998], [-1, 999]),
        ("epoch", [0, MAX_EPOCHS], [-1, MAX_EPOCHS + 1, 10**400]),
        ("side", [1, 65536], [0, -1, 65537]),
        ("share", [0, 0.5, 1], [-0.1, 1.1, math.nan, math.inf]),
        ("seconds", [0, 1.8e9], [-1, math.nan, 1e12, math.inf]),
        ("rate", [0, 1e-5], [-1, math.nan, math.inf]),
        ("sha256", ["a" * 64], ["A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "../" + "a" * 61]),
    ],
)
def test_numbers_and_digests_have_limits(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(from_record(Limited, {name: value}), name) == value
    for value in bad:
        with pytest.raises(RecordError):
            from_record(Limited, {name: value})


@pytest.mark.parametrize("record", [{1: {dt.date(2026, 1, 1): 2}}, {"limit": 10**5000}, {(1, 2): 3}])
def test_what_json_cannot_say_is_refused(record: Any) -> None:
    assert fault(Whole, record)


# Fields by dotted name


def test_fields_of_nested_dataclasses_have_dotted_names() -> None:
    found = field_types(Config)
    assert found["data"] is str
    assert found["optim.lr"] is float
    assert found["cluster.gpus_per_worker"] == float | None
    assert found["optim.optimizer"] == Literal["adam", "adamw"]
    assert "optim" not in found
    assert {name.partition(".")[0] for name in found} == set(STORED_CONFIG)
    assert {f"optim.{name}" for name in STORED_CONFIG["optim"]} < set(found)
    assert list(field_types(SearchConfig)) == [entry.name for entry in fields(SearchConfig)]


def test_fields_are_replaced_by_dotted_name() -> None:
    changed = replace_fields(Config(data="d"), {"run": "r7", "optim.lr": 0.5, "optim.clip_norm": 2.0})
    assert changed == Config(data="d", run="r7", optim=OptimConfig(lr=0.5, clip_norm=2.0))
    assert replace_fields(changed, {}) == changed


def test_a_replaced_field_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr is -1"):
        replace_fields(Config(data="d"), {"optim.lr": -1})
    with pytest.raises(ConfigError, match="needs a multiple of 64"):
        replace_fields(Config(data="d"), {"train.input_size": 100})


# Words and values


@pytest.mark.parametrize(
    ("kind", "text", "words", "wrong"),
    [
        (str, "text", {"1": "1", "": ""}, []),
        (int, "an integer", {"16": 16, "-3": -3}, ["1.5", "", "x"]),
        (float, "a number", {"1e-3": 1e-3, ".5": 0.5, "1": 1.0}, ["fast", ""]),
        (bool, "true or false", {"true": True, "False": False}, ["yes", "1", ""]),
        (float | None, "a number or null", {"0.2": 0.2}, ["none"]),
        (Literal["adam", "adamw"], "one of adam, adamw", {"adamw": "adamw"}, ["sgd"]),
        (tuple[int, ...], "a list of an integer", {}, ["1"]),
        (Part, "an object", {}, ["x"]),
    ],
)
def test_a_word_becomes_a_value_of_its_type_or_is_refused(
    kind: Any, text: str, words: dict[str, Any], wrong: list[str]
) -> None:
    assert type_text(kind) == text
    for word, value in words.items():
        assert parse_word(kind, word) == value
        assert type(parse_word(kind, word)) is type(value)
    for word in wrong:
        with pytest.raises(RecordError) as caught:
            parse_word(kind, word)
        assert str(caught.value) == f"{word!r} is not {text}"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (float, (1.5, 1, math.inf), (True, "1", None)),
        (int, (1, -1), (1.0, True, "1", None)),
        (bool, (True, False), (1, 0, "true", None)),
        (str, ("", "x"), (1, None, b"x")),
        (str | None, ("x", None), (1,)),
        (Literal["a", "b"], ("a",), ("c", None)),
    ],
)
def test_fits(kind: Any, good: tuple[Any, ...], bad: tuple[Any, ...]) -> None:
    assert [fits(kind, value) for value in good] == [True] * len(good)
    assert [fits(kind, value) for value in bad] == [False] * len(bad)


def test_nested_tables_have_dotted_names() -> None:
    assert dict(flat({"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "f": {}})) == {"a": 1, "b.c": 2, "b.d.e": [3]}


def test_the_choice_that_is_near() -> None:
    assert meant_choice(Literal["adam", "sgd"], "adma") == "; did you mean adam?"
    assert meant_choice(Literal["adam", "sgd"] | None, "adma") == "; did you mean adam?"
    for kind, value in ((Literal["adam", "sgd"], "x"), (Literal["adam"], 3), (str, "adma"), (int | None, "adma")):
        assert meant_choice(kind, value) == ""
    with pytest.raises(RecordError, match=r"^kind is \"bb\"; it should be .*'bbb'; did you mean bbb\?$"):
        from_record(Chosen, {"kind": "bb"})
    with pytest.raises(RecordError, match=r"'bb' is not one of aaa, bbb; did you mean bbb\?"):
        parse_word(Literal["aaa", "bbb"], "bb")


@dataclass(frozen=True)
class Chosen:
    kind: Literal["aaa", "bbb"]
