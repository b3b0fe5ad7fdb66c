"""Which values to try next, as Ray Tune asks for them: first what an earlier attempt left undone, then new ones."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ray.tune.search import Searcher

from saltray.distributed.objective import OBJECTIVE
from saltray.distributed.search.plan import Plan
from saltray.distributed.search.records import Trial, propose
from saltray.distributed.search.space import Range, Space, draw
from saltray.distributed.search.transient import Transient
from saltray.errors import ConfigError
from saltray.storage.base import Store

if TYPE_CHECKING:
    import optuna

STARTS = 8
"""Trials that cover the space evenly before TPE has enough to go by."""


class Sampler(Protocol):
    """Where the values of a trial come from."""

    def draw(self, index: int) -> Mapping[str, Any] | None:
        """Values of trial `index`, or None when there is nothing left to try."""

    def learn(self, index: int, values: Mapping[str, Any], objective: float) -> None:
        """A trial has ended with this objective."""


class QuasiRandom:
    """Values that do not depend on how other trials went."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def draw(self, index: int) -> Mapping[str, Any] | None:
        """See `space.draw`."""
        return draw(self._plan.space, self._plan.seed, index)

    def learn(self, index: int, values: Mapping[str, Any], objective: float) -> None:
        """Nothing to learn."""


class Tpe:
    """The tree-structured Parzen estimator of Optuna (Bergstra et al., 2011), after a quasi-random start."""

    def __init__(self, plan: Plan) -> None:
        optuna = import_optuna()
        self._plan = plan
        self._optuna = optuna
        self._space = _distributions(plan.space)
        # Trials that run count as poor ones, so that several at once do not try the same.
        sampler = optuna.samplers.TPESampler(seed=plan.seed, n_startup_trials=STARTS, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._running: dict[int, Any] = {}

    def draw(self, index: int) -> Mapping[str, Any] | None:
        """Ask Optuna, once the first trials have covered the space."""
        if index < STARTS and (values := draw(self._plan.space, self._plan.seed, index)) is not None:
            self._study.enqueue_trial(values)
        self._running[index] = trial = self._study.ask(self._space)
        return {
            field: float(f"{value:.4g}") if isinstance(self._plan.space[field], Range) else value
            for field, value in trial.params.items()
        }

    def learn(self, index: int, values: Mapping[str, Any], objective: float) -> None:
        """Tell Optuna; a trial of an earlier attempt is added whole."""
        if (trial := self._running.pop(index, None)) is not None:
            self._study.tell(trial, objective)
            return
        past = self._optuna.trial.create_trial(params=dict(values), distributions=self._space, value=objective)
        self._study.add_trial(past)


def _distributions(space: Space) -> "dict[str, optuna.distributions.BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        field: FloatDistribution(values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else CategoricalDistribution(values.values)
        for field, values in space.items()
    }


def import_optuna() -> Any:
    """Optuna, which is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "sampler tpe needs Optuna, which is not installed; `pip install 'saltray[tpe]'`, or use quasirandom"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Proposals(Transient, Searcher):
    """Ray Tune's searcher for a plan; every proposal is in the store before its trial starts.

    Args:
        plan: the search.
        store: its part of the store.
        trials: those that were proposed before. The ones that have not ended, or failed, are tried again.
    """

    def __init__(self, plan: Plan, store: Store, trials: Iterable[Trial]) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._plan = plan
        self._store = store
        self._sampler: Sampler = Tpe(plan) if plan.sampler == "tpe" else QuasiRandom(plan)
        self._undone: list[Trial] = []
        self._asked: dict[str, Trial] = {}
        self._next = 0
        for trial in trials:
            self._next = max(self._next, trial.index + 1)
            if trial.status in ("running", "failed"):
                self._undone.append(trial)
            else:
                self._sampler.learn(trial.index, trial.values, trial.rank[0])

    def suggest(self, trial_id: str) -> Any:
        """The next trial, as `run_trial`'s parameters; FINISHED when there is none."""
        trial = self._undone.pop(0) if self._undone else self._new()
        if trial is None:
            return Searcher.FINISHED
        self._asked[trial_id] = trial
        return {"index": trial.index, "values": dict(trial.values)}

    def _new(self) -> Trial | None:
        if self._next >= self._plan.trials:
            return None
        values = self._sampler.draw(self._next)
        if values is None:
            return None
        self._next += 1
        return propose(self._store, self._next - 1, values)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """What a trial came to; one that died counts as the worst."""
        trial = self._asked.pop(trial_id)
        found = result.get(OBJECTIVE, 0.0) if result and not error else 0.0
        self._sampler.learn(trial.index, trial.values, found)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store has all that is needed to go on."""

    def restore(self, checkpoint_path: str) -> None:
        """Never asked for."""
