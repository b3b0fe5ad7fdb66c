"""A search, checked when it is made, before anything starts."""

from dataclasses import dataclass, replace
from typing import Any, Self

from saltray.config import Choice, Config, SearchConfig
from saltray.errors import ConfigError
from saltray.search.space import apply_values, check_space, draw_values

DEFAULT_NAME = "s1"
"""Name of a search that has none."""
REDUCTION_FACTOR = 3
"""Of the trials that reach a rung, one in so many continues; each rung is so many times as late as the one before."""


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """What to search, how, and on what."""

    name: str
    config: Config
    """The configuration of a trial, but for the values that it tries."""
    settings: SearchConfig

    @classmethod
    def create(cls, config: Config, settings: SearchConfig) -> Self:
        """Put the two configurations together.

        Args:
            config: data, store and recipe.
            settings: the search.

        Raises:
            ConfigError: the search does not fit the configuration.
        """
        if settings.epochs is not None:
            config = replace(config, train=replace(config.train, epochs=settings.epochs))
        return cls(name=settings.name or DEFAULT_NAME, config=config, settings=settings)

    def __post_init__(self) -> None:
        count, space = self.config.folds.count, self.settings.space
        for fold in self.settings.folds:
            if fold not in range(count):
                raise ConfigError(f"search.folds names fold {fold}; the split has folds 0 to {count - 1}")
        check_space(space, self.config)
        for index in range(self.settings.trials):
            if (values := draw_values(space, self.settings.seed, index)) is not None:
                apply_values(self.config, values)

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides which trials there are and what they score."""
        return {
            "config": self.config.identity,
            "space": self.space_text,
            "folds": list(self.settings.folds),
            "sampler": self.settings.sampler,
            "prune": self.settings.prune,
            "seed": self.settings.seed,
        }

    @property
    def variants(self) -> list[Config]:
        """The configuration with each value that is listed for a field, one at a time."""
        listed = ((field, values.values) for field, values in self.settings.space.items() if isinstance(values, Choice))
        return [apply_values(self.config, {field: value}) for field, values in listed for value in values]

    @property
    def space_text(self) -> dict[str, str]:
        """The space as the command line has it."""
        return {field: str(values) for field, values in sorted(self.settings.space.items())}

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which ASHA compares trials; none without pruning."""
        epochs = self.config.train.epochs
        if not self.settings.prune or epochs == 1:
            return ()
        rungs = [max(1, -(-epochs // REDUCTION_FACTOR**2))]
        while rungs[-1] * REDUCTION_FACTOR < epochs:
            rungs.append(rungs[-1] * REDUCTION_FACTOR)
        return tuple(rungs)
