"""Where the values of a trial come from."""

from typing import TYPE_CHECKING, Any, Protocol

from saltray.config import Range, SearchConfig, Space, Values
from saltray.errors import ConfigError
from saltray.search.space import draw_values, rounded

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 8
"""Trials that cover the space evenly before TPE has enough to learn from."""


class Sampler(Protocol):
    """Proposes values, and is told how good they were."""

    def propose(self, index: int) -> Values | None:
        """Values of trial `index`, or None when there is nothing left to try."""

    def tell(self, index: int, values: Values, objective: float) -> None:
        """A trial has ended with this objective."""


class QuasiRandomSampler:
    """Values that do not depend on the results of other trials."""

    def __init__(self, settings: SearchConfig) -> None:
        self._settings = settings

    def propose(self, index: int) -> Values | None:
        """See `space.draw_values`."""
        return draw_values(self._settings.space, self._settings.seed, index)

    def tell(self, index: int, values: Values, objective: float) -> None:
        """Results make no difference."""


class TPESampler:
    """The tree-structured Parzen estimator of Optuna (Bergstra et al., 2011), after a quasi-random start."""

    def __init__(self, settings: SearchConfig) -> None:
        optuna = import_optuna()
        self._settings = settings
        self._optuna = optuna
        self._space = _distributions(settings.space)
        # Trials that run count as poor ones, so that several at once do not try the same.
        sampler = optuna.samplers.TPESampler(seed=settings.seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._running: dict[int, Any] = {}

    def propose(self, index: int) -> Values | None:
        """Ask Optuna, once the first trials have covered the space."""
        space, seed = self._settings.space, self._settings.seed
        if index < STARTUP_TRIALS and (values := draw_values(space, seed, index)) is not None:
            self._study.enqueue_trial(values)
        self._running[index] = trial = self._study.ask(self._space)
        return {
            field: rounded(searched, value) if isinstance(searched := space[field], Range) else value
            for field, value in trial.params.items()
        }

    def tell(self, index: int, values: Values, objective: float) -> None:
        """Tell Optuna; a trial of an earlier command is added as a whole."""
        if (trial := self._running.pop(index, None)) is not None:
            self._study.tell(trial, objective)
            return
        past = self._optuna.trial.create_trial(params=dict(values), distributions=self._space, value=objective)
        self._study.add_trial(past)


def make_sampler(settings: SearchConfig) -> Sampler:
    """The sampler that `search.sampler` names."""
    return TPESampler(settings) if settings.sampler == "tpe" else QuasiRandomSampler(settings)


def _distributions(space: Space) -> "dict[str, optuna.distributions.BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        field: FloatDistribution(values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else CategoricalDistribution(values.values)
        for field, values in space.items()
    }


def import_optuna() -> Any:
    """Optuna, which is an optional dependency.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "search.sampler tpe needs Optuna, which is not installed; `pip install 'saltray[tpe]'`, or use quasirandom"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
