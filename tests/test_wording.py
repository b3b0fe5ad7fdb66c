"""Names in messages, and the one that may have been meant."""

import pytest

from saltray.wording import did_you_mean, plain, suggestion, there_are


def test_a_name_from_outside_stays_on_one_line() -> None:
    assert plain("r1") == "r1"
    assert plain("a\x1b[2J\n") == r'"a\u001b[2J\n"'
    assert len(plain("x" * 10**6)) < 90


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("optim.lrr", "optim.lr"),
        ("lr", "optim.lr"),
        ("epcohs", "train.epochs"),
        ("sead", "folds.seed"),  # the first of two
        ("quite-another", None),
        ("", None),
    ],
)
def test_the_known_name_that_is_near(name: str, near: str | None) -> None:
    known = ["optim.lr", "folds.seed", "train.epochs", "train.seed"]
    assert suggestion(name, known) == near
    assert did_you_mean(name, known, "look") == (f"did you mean {near}?" if near else "look")


def test_a_message_lists_what_there_is_but_not_all_of_many() -> None:
    assert there_are("x", [], "make one") == "make one"
    assert there_are("x", ["a7", "b7"], "make one") == "there are a7, b7"
    assert there_are("ab7", ["a7", "b"], "make one") == "there are a7, b; did you mean a7?"
    many = [f"n{number:03d}" for number in range(214)]
    assert there_are("x", many, "") == f"there are {', '.join(many[:10])} and 204 more"
    assert there_are("n99", many, "").endswith(" more; did you mean n199?")


def test_a_known_name_may_have_to_be_nearer() -> None:
    assert suggestion("search.seed", ["train.seed"]) == "train.seed"
    assert suggestion("search.seed", ["train.seed"], least=0.75) is None
