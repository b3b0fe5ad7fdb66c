"""The loop in plain PyTorch: losses, metrics, schedule, one fold from its first step to its last."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.training.engine import EpochMetrics as EpochMetrics
    from saltray.training.engine import fit as fit
    from saltray.training.engine import mean_metrics as mean_metrics
    from saltray.training.inference import predict as predict
    from saltray.training.metrics import Counts as Counts
    from saltray.training.metrics import score_at_thresholds as score_at_thresholds
    from saltray.training.precision import resolve_precision as resolve_precision
    from saltray.training.range_test import Sweep as Sweep
    from saltray.training.range_test import sweep as sweep
    from saltray.training.ranks import Ranks as Ranks
    from saltray.training.state import FitState as FitState
    from saltray.training.state import initial_model as initial_model
    from saltray.training.tiles import TileTensors as TileTensors

_HOME = {
    "Counts": "metrics",
    "EpochMetrics": "engine",
    "FitState": "state",
    "Ranks": "ranks",
    "Sweep": "range_test",
    "TileTensors": "tiles",
    "fit": "engine",
    "initial_model": "state",
    "mean_metrics": "engine",
    "predict": "inference",
    "resolve_precision": "precision",
    "score_at_thresholds": "metrics",
    "sweep": "range_test",
}
__all__ = [
    "Counts",
    "EpochMetrics",
    "FitState",
    "Ranks",
    "Sweep",
    "TileTensors",
    "fit",
    "initial_model",
    "mean_metrics",
    "predict",
    "resolve_precision",
    "score_at_thresholds",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
