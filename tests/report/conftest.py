"""An invented run, small enough to check by hand; and the figures behind the pictures."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from samples import EVALUATION

from saltray.config import Config, ModelConfig, TrainConfig
from saltray.data.folds import FoldBalance
from saltray.report.page import FoldRow, RunReport
from saltray.training.epoch_metrics import EpochMetrics


def history_of(fold: int) -> list[EpochMetrics]:
    """Three epochs, the second of them without validation."""
    measured = [(1.2, 1.1, 0.4), (0.9, None, None), (0.7, 0.8, 0.65 + 0.1 * fold)]
    return [
        EpochMetrics(
            epoch=epoch, loss=loss, lr=1e-3, seconds=2.0, images_per_second=30.0, valid_loss=valid_loss, score=score
        )
        for epoch, (loss, valid_loss, score) in enumerate(measured, start=1)
    ]


@pytest.fixture
def report() -> RunReport:
    """Two folds of three epochs."""
    return RunReport(
        run="r1",
        folds=[
            FoldRow(fold=1, score=0.75, cross_fitted=0.76, iou=0.7, dice=0.8, epochs=3, seconds=75.0),
            FoldRow(fold=0, score=0.65, cross_fitted=0.7, iou=0.6, dice=0.9, epochs=3, seconds=8.41),
        ],
        balance=[
            FoldBalance(fold=1, tiles=29, positives=17, empty_share=0.4138, coverage=0.2456),
            FoldBalance(fold=0, tiles=31, positives=19, empty_share=0.3871, coverage=0.2345),
        ],
        history={fold: history_of(fold) for fold in (1, 0)},
        threshold_curve=[(0.4, 0.71), (0.45, 0.73), (0.5, 0.7)],
        threshold=0.45,
        postprocess="threshold 0.45, blank tiles emptied",
        baseline=0.3905,
        score=0.70123,
        score_at_threshold=0.73456,
        evaluation=EVALUATION,
        examples=b"\x89PNG\r\n\x1a\n picture",
        ensemble="s3://bucket/ensembles/r1/v1",
        config=Config(data="tgs", model=ModelConfig(num_filters=7), train=TrainConfig(epochs=3)),
        versions={"torch": "2.15.0", "ray": "2.60.0"},
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that becomes a picture during the test."""
    figures: list[Figure] = []
    savefig = Figure.savefig

    def watched(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watched)
    return figures
