"""Generated command lines: done, or refused with exit code 2 and no traceback. None of them reaches training."""

from pathlib import Path
from typing import Any

from command import Saltray
from fuzz.conftest import Watch, examples
from fuzz.mutations import NUMBERS, TEXTS, Draw
from hypothesis import given
from hypothesis import strategies as st

from saltray.commands import range_test, train, tune  # noqa: F401  # here, where no time is measured
from saltray.config import Config, SearchConfig
from saltray.models import weights  # noqa: F401  # its import of torch makes a cache folder, which is no input's fault
from saltray.records import field_types

# Without demo and run, which start Ray before they read the tiles, and synth, which takes as long as it is told to.
VERBS = ["train", "tune", "range-test", "plan", "status", "predict", "check", "ensemble"]
FLAGS = [
    *(f"--{name}" for name in field_types(Config) if name not in ("data", "store")),
    *(f"--{name.removeprefix('cluster.')}" for name in field_types(Config) if name.startswith("cluster.")),
    *(f"--search.{name}" for name in field_types(SearchConfig)),
    *("--config", "--from-search", "--on", "--like", "--images-per-second", "--price", "--ensemble", "--part"),
    *("--workers", "--low", "--high", "--steps", "--fold", "--name", "--lr-from", "--no-prune", "--help", "--trials"),
]
SPACES = st.builds(
    "{}={}{}".format,
    st.sampled_from(list(field_types(Config))) | TEXTS,
    st.sampled_from(["log:", "lin:", ""]),
    st.lists(NUMBERS | TEXTS, max_size=4).map(lambda parts: ":".join(map(str, parts))) | st.just("1," * 2000 + "2"),
)
WORDS = st.one_of(
    NUMBERS.map(str),
    TEXTS,
    SPACES,
    st.sampled_from(
        ["unset", "adam", "fp32", "1e-3", "64", "searches/s1", "s3://", "gs://b/x", "9" * 5000, "x" * 10**5]
    ),
).map(lambda word: word.replace("\0", ""))  # no program can be given such a word


@st.composite
def command_lines(draw: Draw) -> list[str]:
    words = [draw(st.sampled_from(VERBS))]
    if words == ["ensemble"]:
        words.append(draw(st.sampled_from(["list", "show", "verify"]) | WORDS))
    for _ in range(draw(st.integers(0, 5))):
        words.append(draw(st.sampled_from(FLAGS)))
        words += draw(
            st.lists(WORDS, max_size=2) if draw(st.integers(0, 3)) == 0 else st.lists(WORDS, min_size=1, max_size=1)
        )
    return words


@examples(200)
@given(words=command_lines())
def test_a_command_line_is_done_or_refused(words: list[str], saltray: Saltray, watch: Watch, tmp_path: Path) -> None:
    places: list[Any] = [] if words[0] in ("check", "ensemble") else ["--store", tmp_path / "store"]
    places += [] if words[0] in ("check", "ensemble", "status") else ["--data", tmp_path / "none"]
    with watch():
        answer = saltray(*words, *(places[2:] if words[0] == "predict" else places))
    assert answer.code in (0, 2), answer
    assert "Traceback" not in answer.err
