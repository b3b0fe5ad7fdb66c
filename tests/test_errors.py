"""The exceptions: one tree, exit codes, pickling."""

import pickle

import pytest

from saltray import errors
from saltray.errors import DataError, FoldsFailedError, SaltrayError, SearchFailedError, TrainingError

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SaltrayError)]
WITH_DETAILS = {
    DataError: ("a.png: damaged",),
    FoldsFailedError: {3: "diverged"},
    SearchFailedError: {"trial-000": "x"},
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_exception_survives_pickling_with_its_details(kind: type[SaltrayError]) -> None:
    details = WITH_DETAILS.get(kind)
    error = kind("what, value, remedy") if details is None else kind("what, value, remedy", details)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == "what, value, remedy"
    assert again.args == error.args
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_only_training_itself_exits_with_1(kind: type[SaltrayError]) -> None:
    assert kind.exit_code == (1 if issubclass(kind, TrainingError) else 2)


def test_the_drawn_tree_has_every_class_below_its_parent() -> None:
    assert errors.__doc__ is not None
    depth_of = {}
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        name = words.split()[0] if words.split() else ""
        if name.endswith("Error"):
            depth_of[name] = (len(words) - len(words.lstrip())) // 4
    assert depth_of == {kind.__name__: len(kind.__mro__) - len(SaltrayError.__mro__) + 1 for kind in CLASSES}


@pytest.mark.parametrize(
    ("error", "limit", "text"),
    [
        (ValueError("a\n  b\t c\n"), None, "a b c"),
        (ValueError(" \n"), None, "ValueError"),
        (ValueError(), 5, "Value"),
        (KeyError("a\nb"), None, "'a\\nb'"),
        (ValueError("many words\nand lines"), 12, "many words a"),
    ],
)
def test_any_exception_on_one_line(error: Exception, limit: int | None, text: str) -> None:
    assert errors.one_line(error, limit) == text
