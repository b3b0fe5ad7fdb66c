"""What pages share: numbers for people, and the policy that allows one script alone."""

import base64
import hashlib
import math

import pytest

from saltray.report.templating import duration, number, percent, rounded, script_source, template

UNKNOWN = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.41, "8.4 s"), (59.96, "60.0 s"), (75, "1 min 15 s"), (3599.7, "1 h 00 min"), (7265, "2 h 01 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0375123, "0.0375"), (3.456, "3.46"), (99.96, "100"), (12345.6, "12,346")]
)
def test_rounded_numbers(value: float, text: str) -> None:
    assert rounded(value) == text


def test_unknown_numbers_are_dashes() -> None:
    for form in (duration, number, percent, rounded):
        assert [form(value) for value in (math.nan, math.inf)] == [UNKNOWN] * 2
    assert (number(0.12345), percent(0.1234)) == ("0.1235", "12.3 %")


def test_the_policy_has_the_digest_of_the_script() -> None:
    text, source = script_source("runs.js")
    assert source == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert "</" not in text  # it stands within a script element


def test_a_value_that_a_template_needs_is_never_left_out() -> None:
    with pytest.raises(Exception, match="undefined"):
        template("run.html.j2").render()
