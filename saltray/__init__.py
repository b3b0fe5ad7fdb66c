"""Seismic tiles in, a versioned ensemble of cross-validated salt segmentation models out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saltray.config import AugmentConfig as AugmentConfig
    from saltray.config import ClusterConfig as ClusterConfig
    from saltray.config import Config as Config
    from saltray.config import FoldConfig as FoldConfig
    from saltray.config import ModelConfig as ModelConfig
    from saltray.config import OptimConfig as OptimConfig
    from saltray.config import TrainConfig as TrainConfig
    from saltray.config_file import load_config as load_config
    from saltray.data.raw import read_tiles as read_tiles
    from saltray.data.summary import DatasetSummary as DatasetSummary
    from saltray.data.summary import check as check
    from saltray.data.synthetic import synth as synth
    from saltray.data.tiles import Tiles as Tiles
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
    from saltray.ensemble.load import Ensemble as Ensemble
    from saltray.ensemble.publishing import model_card as model_card
    from saltray.ensemble.versions import list_ensembles as list_ensembles
    from saltray.ensemble.versions import read_manifest as read_manifest
    from saltray.ensemble.versions import verify as verify
    from saltray.errors import SaltrayError as SaltrayError
    from saltray.models.albunet import AlbuNet as AlbuNet

_HOME = {
    "AlbuNet": "models",
    "AugmentConfig": "config",
    "DatasetSummary": "data",
    "ClusterConfig": "config",
    "Config": "config",
    "Ensemble": "ensemble",
    "FoldConfig": "config",
    "FoldStatus": "distributed",
    "ModelConfig": "config",
    "OptimConfig": "config",
    "Prediction": "distributed",
    "RangeTest": "distributed",
    "RunPlan": "distributed",
    "RunStatus": "distributed",
    "RunSummary": "distributed",
    "SaltrayError": "errors",
    "SearchResult": "distributed",
    "Tiles": "data",
    "TrainConfig": "config",
    "TrainResult": "distributed",
    "check": "data",
    "choice": "distributed",
    "demo": "distributed",
    "list_ensembles": "ensemble",
    "list_runs": "distributed",
    "load_config": "config_file",
    "loguniform": "distributed",
    "model_card": "ensemble",
    "parse_space": "distributed",
    "plan": "distributed",
    "predict": "distributed",
    "range_test": "distributed",
    "read_manifest": "ensemble",
    "read_tiles": "data",
    "run": "distributed",
    "status": "distributed",
    "synth": "data",
    "train": "distributed",
    "tune": "distributed",
    "uniform": "distributed",
    "verify": "ensemble",
}
__all__ = [
    "AlbuNet",
    "AugmentConfig",
    "DatasetSummary",
    "ClusterConfig",
    "Config",
    "Ensemble",
    "FoldConfig",
    "FoldStatus",
    "ModelConfig",
    "OptimConfig",
    "Prediction",
    "RangeTest",
    "RunPlan",
    "RunStatus",
    "RunSummary",
    "SaltrayError",
    "SearchResult",
    "Tiles",
    "TrainConfig",
    "TrainResult",
    "check",
    "choice",
    "demo",
    "list_ensembles",
    "list_runs",
    "load_config",
    "loguniform",
    "model_card",
    "parse_space",
    "plan",
    "predict",
    "range_test",
    "read_manifest",
    "read_tiles",
    "run",
    "status",
    "synth",
    "train",
    "tune",
    "uniform",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
