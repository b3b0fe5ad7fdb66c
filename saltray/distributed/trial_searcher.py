"""Which values to try next, as Ray Tune asks for them: first what an earlier command left, then new ones."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from ray.tune.search import Searcher

from saltray.search.objective import OBJECTIVE
from saltray.search.samplers import make_sampler
from saltray.search.spec import SearchSpec
from saltray.search.trials import Trial, create_trial
from saltray.storage.base import Store


class NotPickled:
    """Pickles to nothing. Ray Tune pickles all that it is given, for a restore that saltray has no use for."""

    def __reduce__(self) -> Any:
        return NotPickled, ()


class Hooks(NotPickled):
    """What Ray Tune calls back. It turns errors of such calls into texts of its own, or into failures of a trial.

    Args:
        errors: those raised here, for the caller of Ray Tune; after one, nothing more is done.
    """

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors


M = TypeVar("M", bound=Callable[..., Any])


def hook(method: M) -> M:
    """Keep what a method of `Hooks` raises."""

    @functools.wraps(method)
    def call(self: Hooks, *args: Any, **kwargs: Any) -> Any:
        if self.errors:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.errors.append(error)
            raise

    return cast("M", call)


class TrialSearcher(Hooks, Searcher):
    """Ray Tune's searcher for a search; every trial is in the store before it starts.

    Args:
        spec: the search.
        home: its part of the store.
        trials: those of earlier commands. The ones that have not ended, or failed, are run again.
        errors: gets what is raised here.
    """

    def __init__(self, spec: SearchSpec, home: Store, trials: Iterable[Trial], errors: list[Exception]) -> None:
        Searcher.__init__(self, metric=OBJECTIVE, mode="max")
        Hooks.__init__(self, errors)
        self._limit = spec.settings.trials
        self._home = home
        self._sampler = make_sampler(spec.settings)
        self._unfinished: list[Trial] = []
        self._suggested: dict[str, Trial] = {}
        self._next = 0
        for trial in trials:
            self._next = max(self._next, trial.index + 1)
            if trial.resumable:
                self._unfinished.append(trial)
            else:
                self._sampler.tell(trial.index, trial.values, trial.rank[0])

    @hook
    def suggest(self, trial_id: str) -> Any:
        """The next trial, as `run_trial`'s parameters; FINISHED when there is none."""
        trial = self._unfinished.pop(0) if self._unfinished else self._new()
        if trial is None:
            return Searcher.FINISHED
        self._suggested[trial_id] = trial
        return {"index": trial.index, "values": dict(trial.values)}

    def _new(self) -> Trial | None:
        if self._next >= self._limit:
            return None
        values = self._sampler.propose(self._next)
        if values is None:
            return None
        self._next += 1
        return create_trial(self._home, self._next - 1, values)

    @hook
    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the sampler; a trial whose process died counts as the worst."""
        trial = self._suggested.pop(trial_id)
        found = result.get(OBJECTIVE, 0.0) if result and not error else 0.0
        self._sampler.tell(trial.index, trial.values, found)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store has all that is needed to resume."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""
