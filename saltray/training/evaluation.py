"""What the out-of-fold predictions of a run are worth, as records. Without torch, so that they are read quickly."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from saltray.records import Count, Fold, Fraction, Many, Seconds

Difference = Annotated[float, Field(ge=-1, le=1)]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Ends of a 95 % interval of a mean over tiles, by percentile bootstrap."""

    low: Difference
    high: Difference

    def __str__(self) -> str:
        return f"{self.low:.4f} to {self.high:.4f}"


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """The tiles without salt, or those whose coverage is within one decile of the others'."""

    name: str
    """Such as 'no salt' or '12.3 to 20.1 % salt'."""
    tiles: Count
    score: Fraction
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The pixels whose probability is within one step."""

    pixels: Count
    predicted: Fraction
    """Their mean probability."""
    observed: Fraction
    """The share of them that is labelled as salt."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Whether pixels with a probability of p are salt as often as p says."""

    error: Fraction
    """Expected calibration error: mean distance of predicted and observed, over all pixels."""
    largest: Fraction
    """The largest probability of all pixels."""
    bins: Many[ReliabilityBin]
    """Those with pixels, by rising probability."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a way to predict a tile gives and costs."""

    models: Count
    """Models whose probabilities are averaged."""
    tta: bool
    """Whether each tile's mirror image is predicted, too."""
    score: Fraction | None
    """Out-of-fold score at a probability of 0.5. None for models of several folds, all but one of which have trained on
    the tile."""
    seconds: Seconds | None
    """Time of one device for a tile; None where it was not measured."""
    gain: Interval | None = None
    """Of what the mirror images add to the score of one model, over tiles, by paired bootstrap; None where it is not
    known."""


@dataclass(frozen=True, kw_only=True)
class FoldScore:
    """The cross-fitted score of one fold."""

    fold: Fold
    score: Fraction


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the out-of-fold predictions of a run are worth."""

    weights: str
    """Which weights of the training were scored, in words."""
    score: Fraction
    """The headline. Cross-fitted: each fold is scored with the post-processing that was chosen on the other folds."""
    interval: Interval
    """Of `score`, over tiles."""
    folds: Many[FoldScore]
    """The parts of `score`."""
    spread: Fraction | None
    """Standard deviation of the score over the folds; None of one fold."""
    optimism: Difference
    """By how much the score of the post-processing on the very predictions that it was chosen on is higher."""
    strata: Many[Stratum]
    """Cross-fitted scores by coverage."""
    reliability: Reliability
    prices: Many[Price]
    device: str | None
    """On which the prices were measured; None where they were not."""
