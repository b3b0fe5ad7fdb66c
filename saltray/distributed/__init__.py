"""Ray at the rim: a fold as a TorchTrainer, five at once, inference as a stream."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.distributed.cross_validation import train as train
    from saltray.distributed.demonstration import demo as demo
    from saltray.distributed.planning import RunPlan as RunPlan
    from saltray.distributed.planning import plan as plan
    from saltray.distributed.prediction import Prediction as Prediction
    from saltray.distributed.prediction import predict as predict
    from saltray.distributed.progress import FoldStatus as FoldStatus
    from saltray.distributed.progress import RunStatus as RunStatus
    from saltray.distributed.progress import RunSummary as RunSummary
    from saltray.distributed.progress import list_runs as list_runs
    from saltray.distributed.progress import status as status
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
    "FoldStatus": "progress",
    "Prediction": "prediction",
    "RangeTest": "search.ranging",
    "RunPlan": "planning",
    "RunStatus": "progress",
    "RunSummary": "progress",
    "SearchResult": "search.tuning",
    "TrainResult": "run_records",
    "choice": "search.space",
    "demo": "demonstration",
    "list_runs": "progress",
    "loguniform": "search.space",
    "parse_space": "search.space",
    "plan": "planning",
    "predict": "prediction",
    "range_test": "search.ranging",
    "run": "search.pipeline",
    "status": "progress",
    "train": "cross_validation",
    "tune": "search.tuning",
    "uniform": "search.space",
}
__all__ = [
    "FoldStatus",
    "Prediction",
    "RangeTest",
    "RunPlan",
    "RunStatus",
    "RunSummary",
    "SearchResult",
    "TrainResult",
    "choice",
    "demo",
    "list_runs",
    "loguniform",
    "parse_space",
    "plan",
    "predict",
    "range_test",
    "run",
    "status",
    "train",
    "tune",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
