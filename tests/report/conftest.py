"""An invented run, small enough to check by hand."""

from typing import Any

import pytest


@pytest.fixture
def page_input() -> dict[str, Any]:
    """Every argument of `render_run`, for two folds of three epochs."""
    return {
        "run": "r1",
        "results": [
            {
                "fold": 1,
                "score": 0.75,
                "score_at_threshold": 0.76,
                "iou": 0.7,
                "dice": 0.8,
                "epochs": 3,
                "seconds": 75.0,
            },
            {
                "fold": 0,
                "score": 0.65,
                "score_at_threshold": 0.7,
                "iou": 0.6,
                "dice": 0.9,
                "epochs": 3,
                "seconds": 8.41,
            },
        ],
        "balance": [
            {"fold": 0, "tiles": 31, "empty_share": 0.3871, "coverage": 0.2345},
            {"fold": 1, "tiles": 29, "empty_share": 0.4138, "coverage": 0.2456},
        ],
        "history": {
            fold: [
                {"epoch": 1, "loss": 1.2, "valid_loss": 1.1, "score": 0.4, "lr": 1e-3},
                {"epoch": 2, "loss": 0.9, "valid_loss": None, "score": None, "lr": 5e-4},
                {"epoch": 3, "loss": 0.7, "valid_loss": 0.8, "score": 0.65 + 0.1 * fold, "lr": 0.0},
            ]
            for fold in (0, 1)
        },
        "threshold_curve": ([0.4, 0.45, 0.5], [0.71, 0.73, 0.7]),
        "threshold": 0.45,
        "floor": 0.3905,
        "score": 0.70123,
        "score_at_threshold": 0.73456,
        "examples": b"\x89PNG\r\n\x1a\n picture",
        "ensemble": "s3://bucket/ensembles/r1/1",
        "config": {"data": "tgs", "train": {"epochs": 3, "batch_size": 32}, "model": {"weights": None}},
        "versions": {"torch": "2.15.0", "ray": "2.60.0"},
    }
