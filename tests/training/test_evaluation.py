"""The records of an evaluation survive JSON, and are read without torch."""

import subprocess
import sys

import pytest
from samples import EVALUATION

from saltray.records import RecordError, from_record, to_record
from saltray.training.evaluation import Evaluation, Interval


def test_an_evaluation_survives_json() -> None:
    assert from_record(Evaluation, to_record(EVALUATION)) == EVALUATION
    with pytest.raises(RecordError, match=r"interval\.low is -3"):
        from_record(Evaluation, to_record(EVALUATION) | {"interval": {"low": -3.0, "high": 0.5}})


def test_an_interval_in_words() -> None:
    assert str(Interval(low=0.70123, high=0.73987)) == "0.7012 to 0.7399"


def test_it_loads_no_torch() -> None:
    code = "import sys, saltray.training.evaluation\nassert not {'torch', 'numpy'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], check=True)
