"""A search as it was asked for: checked when it is made, before anything starts."""

from dataclasses import dataclass
from typing import Any, Literal

from saltray.config import Config, check_name
from saltray.distributed.search.space import Space, apply, check_space, draw, loguniform
from saltray.errors import ConfigError

Sampler = Literal["quasirandom", "tpe"]
LEARNING_RATES: Space = {"optim.lr": loguniform(1e-5, 1e-2)}
"""What is searched where nothing else is asked for."""
REDUCTION = 3
"""Of the trials that reach a rung, one in so many goes on; rungs lie so many times further apart each."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to search, how and on what. Trials and `concurrent` may change when a search goes on; the rest may not."""

    config: Config
    name: str
    space: Space
    trials: int
    folds: tuple[int, ...]
    sampler: Sampler
    prune: bool
    concurrent: int | None
    seed: int

    def __post_init__(self) -> None:
        check_name(self.name, "search")
        if self.trials < 1:
            raise ConfigError(f"trials is {self.trials}; use 1 or more")
        if self.concurrent is not None and self.concurrent < 1:
            raise ConfigError(f"concurrent is {self.concurrent}; use 1 or more")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; use 0 or more")
        if self.sampler not in ("quasirandom", "tpe"):
            raise ConfigError(f"sampler is {self.sampler!r}; use quasirandom or tpe")
        count = self.config.folds.count
        unknown = [fold for fold in self.folds if fold not in range(count)]
        if unknown or not self.folds:
            what = f"there is no fold {unknown[0]}" if unknown else "no fold is named"
            raise ConfigError(f"{what}; the split has folds 0 to {count - 1}")
        if len(set(self.folds)) < len(self.folds):
            raise ConfigError(f"folds {', '.join(map(str, self.folds))} name one twice; name each once")
        check_space(self.space, self.config)
        for index in range(self.trials):
            if (values := draw(self.space, self.seed, index)) is not None:
                apply(self.config, values)

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides which trials there are and what they score."""
        return {
            "config": self.config.identity,
            "space": self.space_text,
            "folds": list(self.folds),
            "sampler": self.sampler,
            "prune": self.prune,
            "seed": self.seed,
        }

    @property
    def space_text(self) -> dict[str, str]:
        """The space as the command line says it."""
        return {field: str(values) for field, values in sorted(self.space.items())}

    @property
    def rungs(self) -> list[int]:
        """Epochs after which ASHA compares trials, each three times as late as the one before; none without pruning."""
        epochs = self.config.train.epochs
        rungs = [max(1, -(-epochs // REDUCTION**2))]
        while rungs[-1] * REDUCTION < epochs:
            rungs.append(rungs[-1] * REDUCTION)
        return rungs if self.prune and epochs > 1 else []
