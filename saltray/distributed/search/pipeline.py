"""`saltray run`: search, train with what was found, publish; in one submitted job."""

from collections.abc import Sequence
from dataclasses import replace

from saltray.config import Config
from saltray.distributed.cross_validation import train
from saltray.distributed.run_records import TrainResult
from saltray.distributed.runtime import ray_cluster
from saltray.distributed.search.plan import LEARNING_RATES, Plan, Sampler
from saltray.distributed.search.space import Space
from saltray.distributed.search.tuning import search


def run(
    config: Config,
    *,
    space: Space | None = None,
    trials: int = 16,
    name: str | None = None,
    folds: Sequence[int] = (0,),
    sampler: Sampler = "quasirandom",
    prune: bool = True,
    concurrent: int | None = None,
    seed: int = 0,
    epochs: int | None = None,
) -> TrainResult:
    """Search, train every fold with the best values, and publish the ensemble. Each part goes on where it stopped.

    Args:
        config: data, store and recipe of both.
        space: as for `tune`, and so are all that follow but two.
        trials: how many sets of values to try at most.
        name: name of the search, by default that of the run.
        folds: the folds whose held-out tiles score a trial.
        sampler: quasirandom or tpe.
        prune: stop poor trials early.
        concurrent: trials at once.
        seed: seed of the values.
        epochs: length of a trial, where it is to be shorter than train.epochs.

    Raises:
        as `tune` and `train`.
    """
    tried = config if epochs is None else replace(config, train=replace(config.train, epochs=epochs))
    plan = Plan(
        config=tried,
        name=name or config.run,
        space=LEARNING_RATES if space is None else dict(space),
        trials=trials,
        folds=tuple(folds),
        sampler=sampler,
        prune=prune,
        concurrent=concurrent,
        seed=seed,
    )
    with ray_cluster():
        found = search(plan)
        return train(config, lr_from=f"searches/{found.name}")
