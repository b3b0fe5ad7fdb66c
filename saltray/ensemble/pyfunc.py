"""An ensemble as an MLflow model: a pointer to the published version, whose digests are checked when it is loaded.

model = mlflow.pyfunc.load_model("models:/r1/1")
probabilities = model.predict(images)  # [N, H, W] from uint8
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saltray.ensemble.load import Ensemble

POINTER = "ensemble.json"
"""The file of the model with the ensemble's URI, which is all that it holds."""


class EnsembleModel:
    """What MLflow wraps."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`Ensemble.predict` of [N, H, W] grey tiles."""
        return self._ensemble.predict(np.asarray(images))


def _load_pyfunc(path: str) -> EnsembleModel:
    """MLflow calls it, by this name, with the path of the file."""
    return EnsembleModel(Ensemble.load(json.loads(Path(path).read_text())["uri"]))
