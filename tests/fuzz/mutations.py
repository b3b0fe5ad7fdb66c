"""Damage to records: what a bad disk, a broken copy, an editor or a stranger makes of a valid one."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Draw = Any
"""Hypothesis's `draw` of a composite strategy."""

# Texts that are no result of json.dumps, by the string that stands for them.
RAW = {
    "@deep": "[" * 100_000 + "]" * 100_000,
    "@deep-object": '{"a":' * 300 + "1" + "}" * 300,
    "@nest-900": "[" * 900 + "]" * 900,
    "@wide": "[" + "[]," * 200_000 + "[]]",
    "@digits": "9" * 5000,
    "@exponent": "1e999",
    "@integer": "1" + "0" * 400,
    "@long": '"' + "x" * 2**21 + '"',
    "@surrogate": '"\\ud800"',
    "@junk": "undefined",
}
NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 2**31, 2**53 + 1, 2**63, 10**9, 10**18, -(10**9), 5e-324, 1e308, 0.5, 1.5, -0.0]),
    st.integers(),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", ".", "..", "../../x", "/etc/passwd", "a\nb", "\x1b[31m", "\0", "ü", "u\u0308", "1", "true", "x" * 5000]
    ),
    st.text(max_size=20),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    TEXTS,
    st.sampled_from(sorted(RAW)),
    st.recursive(
        NUMBERS | TEXTS, lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3)
    ),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value within a JSON value is, itself included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from paths(below, (*path, key))


@st.composite
def damaged_value(draw: Draw, value: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """A JSON-like value with one to three places replaced, removed, renamed, repeated or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(list(paths(value)))) or (None,)
        if last is None:
            if not path and draw(st.integers(0, 9)) == 0:  # seldom the whole, which hides all else
                return draw(values)
            continue
        parent = value
        for key in path:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "repeat", "swap"])):
            case "replace":
                parent[last] = draw(values)
            case "remove":
                del parent[last]
            case "rename" if isinstance(parent, dict):
                parent[draw(TEXTS)] = parent.pop(last)
            case "repeat" if isinstance(parent, list):
                parent.extend([copy.deepcopy(parent[last])] * draw(st.integers(1, 50)))
            case "swap":
                other = draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent))))
                parent[last], parent[other] = parent[other], parent[last]
    return value


def json_text(value: Any, **how: Any) -> str:
    """JSON, with the texts of RAW in place."""
    text = json.dumps(value, **how)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text


@st.composite
def damaged_bytes(draw: Draw, data: bytes) -> bytes:
    """Bytes that were cut, flipped, doubled, padded or recoded."""
    position = st.integers(0, max(len(data) - 1, 0))
    changed = bytearray(data)
    match draw(st.sampled_from(["cut", "flip", "flip", "double", "zero", "insert", "recode", "noise"])):
        case "cut":
            return data[: draw(position)]
        case "flip":
            for _ in range(draw(st.integers(1, 8))):
                at = draw(position)
                changed[at : at + 1] = bytes([draw(st.integers(0, 255))])
        case "double":
            return data * 2
        case "zero":
            at = draw(position)
            changed[at : at + 64] = bytes(len(changed[at : at + 64]))
        case "insert":
            at = draw(position)
            changed[at:at] = draw(st.binary(max_size=20))
        case "recode":
            text = data.decode("latin-1")
            return text.encode(draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32", "cp037"])), errors="replace")
        case "noise":
            return draw(st.binary(max_size=200))
    return bytes(changed)


@st.composite
def damaged_json(draw: Draw, data: bytes) -> bytes:
    """The text of a JSON record, its structure damaged, or its bytes, or a name in it twice."""
    kind = draw(st.sampled_from(["value", "value", "value", "bytes", "twice"]))
    if kind == "bytes":
        return draw(damaged_bytes(data))
    value = json.loads(data)
    if kind == "value":
        return json_text(draw(damaged_value(value))).encode()
    text = data.decode()
    quoted = [json.dumps(path[-1]) for path in paths(value) if path and isinstance(path[-1], str)]
    name = draw(st.sampled_from(quoted or ['""']))
    return text.replace(f"{name}:", f"{name}: {json_text(draw(VALUES))}, {name}:", 1).encode()


@st.composite
def damaged_lines(draw: Draw, data: bytes) -> bytes:
    """The text of JSON lines, with one of them damaged."""
    lines = data.splitlines(keepends=True)
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(damaged_json(lines[at])) + draw(st.sampled_from([b"\n", b"", b"\r\n", b"\n\n"]))
    return b"".join(lines)
