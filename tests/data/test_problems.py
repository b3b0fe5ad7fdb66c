"""Problems of one kind are one line; each of another kind has its own."""

import pytest

from saltray.data.problems import KINDS, Problem, and_more, printable, quoted, raise_problems, summed_up
from saltray.errors import DataError


def test_few_problems_have_a_line_each() -> None:
    assert summed_up([Problem("b", "bad"), Problem("a", "worse"), Problem("c", "bad")]) == (
        "a: worse",
        "b: bad",
        "c: bad",
    )


def test_many_of_a_kind_are_one_line_with_three_samples_and_a_count() -> None:
    many = [Problem(f"images/{n:05}.png", "no mask of the same name; add it") for n in range(18_000)]
    assert summed_up([*many, Problem("x", "other")]) == (
        "images/00000.png, images/00001.png, images/00002.png and 17,997 more: no mask of the same name; add it",
        "x: other",
    )


def test_numbers_and_quotes_do_not_make_another_kind() -> None:
    problems = [Problem(f"{n}", f"{n}x{n + 1} pixels ({'reason ' * n}), '{'id' * n}'") for n in range(1, 100)]
    (line,) = summed_up(problems)
    assert line.startswith("1, 10, 11 and 96 more: 1x2 pixels")


def test_kinds_are_limited() -> None:
    lines = summed_up([Problem("a", f"kind {chr(0x4E00 + n)}") for n in range(500)])
    assert len(lines) == KINDS + 1
    assert lines[-1] == f"and {500 - KINDS} more of other kinds"


def test_all_are_counted_in_one_line() -> None:
    raise_problems("here", [])
    with pytest.raises(DataError, match="^1 problem in here, fix or remove the files; the first: b: bad$"):
        raise_problems("here", [Problem("b", "bad")])
    with pytest.raises(DataError, match="^2 problems in here, .*; the first: a: bad$") as caught:
        raise_problems("here", [Problem("b", "bad"), Problem("a", "bad")])
    assert caught.value.problems == ("a: bad", "b: bad")
    with pytest.raises(
        DataError, match="^1,200 problems in here, .*; the first: 0, 1, 10 and 1,197 more: bad$"
    ) as caught:
        raise_problems("here", [Problem(str(n), "bad") for n in range(1200)])
    assert len(caught.value.problems) == 1


def test_what_comes_from_outside_is_safe_to_print() -> None:
    assert printable("Öl.png") == "Öl.png"
    assert printable("a\x1b[2J") == r"'a\x1b[2J'"
    assert str(Problem("a\nb", "bad")) == r"'a\nb': bad"
    assert quoted("a\x1b") == r"'a\x1b'"
    assert quoted("x" * 1000) == f"'{'x' * 40}'..."
    assert and_more(["a"]) == "a"
    assert and_more(["a", "b", "c", "\x07"]) == "a, b, c and 1 more"


def test_a_long_name_is_shortened() -> None:
    line = printable("a" * 65_000 + "\x1b.png")
    assert len(line) < 500
    assert line.isprintable()
    assert line.endswith("\\x1b.png'")
