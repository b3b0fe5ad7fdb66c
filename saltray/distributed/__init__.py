"""Ray at the rim: a fold as a TorchTrainer, five at once, inference as a stream."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.distributed.cross_validation import train as train
    from saltray.distributed.demonstration import demo as demo
    from saltray.distributed.prediction import Prediction as Prediction
    from saltray.distributed.prediction import predict as predict
    from saltray.distributed.run_records import TrainResult as TrainResult
    from saltray.distributed.search.pipeline import run as run
    from saltray.distributed.search.ranging import RangeTest as RangeTest
    from saltray.distributed.search.ranging import range_test as range_test
    from saltray.distributed.search.space import choice as choice
    from saltray.distributed.search.space import loguniform as loguniform
    from saltray.distributed.search.space import parse_space as parse_space
    from saltray.distributed.search.space import uniform as uniform
    from saltray.distributed.search.tuning import SearchResult as SearchResult
    from saltray.distributed.search.tuning import tune as tune

_HOME = {
    "Prediction": "prediction",
    "RangeTest": "search.ranging",
    "SearchResult": "search.tuning",
    "TrainResult": "run_records",
    "choice": "search.space",
    "demo": "demonstration",
    "loguniform": "search.space",
    "parse_space": "search.space",
    "predict": "prediction",
    "range_test": "search.ranging",
    "run": "search.pipeline",
    "train": "cross_validation",
    "tune": "search.tuning",
    "uniform": "search.space",
}
__all__ = [
    "Prediction",
    "RangeTest",
    "SearchResult",
    "TrainResult",
    "choice",
    "demo",
    "loguniform",
    "parse_space",
    "predict",
    "range_test",
    "run",
    "train",
    "tune",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
