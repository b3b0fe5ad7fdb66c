"""Ray at the rim: a fold as a TorchTrainer, five at once, inference as a stream."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.distributed.cross_validation import train as train
    from saltray.distributed.demonstration import demo as demo
    from saltray.distributed.prediction import Prediction as Prediction
    from saltray.distributed.prediction import predict as predict
    from saltray.distributed.run import TrainResult as TrainResult

_HOME = {
    "Prediction": "prediction",
    "TrainResult": "run",
    "demo": "demonstration",
    "predict": "prediction",
    "train": "cross_validation",
}
__all__ = [
    "Prediction",
    "TrainResult",
    "demo",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
