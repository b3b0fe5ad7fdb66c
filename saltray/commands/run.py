"""`saltray run`: search, train with the best values, publish; in one job."""

from dataclasses import replace

from saltray.commands.prepare import check_inputs, prepare
from saltray.commands.train import TrainResult, check_machines_for_run, train
from saltray.commands.tune import check_machines_for_search, tune
from saltray.config import Config, SearchConfig
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.paths import check_kept
from saltray.errors import DataError
from saltray.progress import Observer, log_event
from saltray.runs.layout import run_folder
from saltray.search.layout import search_folder
from saltray.search.spec import SearchSpec
from saltray.storage.uri import open_store


def run(config: Config, search: SearchConfig | None = None, *, observer: Observer = log_event) -> TrainResult:
    """Search, train every fold with the best values, and publish the ensemble. Each part resumes where it stopped.

    Args:
        config: data, store and recipe of both.
        search: the search; its name is that of the run unless given.
        observer: receives the events.

    Raises:
        as `tune` and `train`.
    """
    settings = search or SearchConfig()
    settings = replace(settings, name=settings.name or config.run)
    # What is impossible is refused before Ray starts.
    spec = SearchSpec.create(config, settings)
    check_kept("the store", config.store)
    store = open_store(config.store)
    check_machines_for_search(spec, store.sub(search_folder(spec.name)))
    check_machines_for_run(config, store.sub(run_folder(config.run)), range(config.folds.count))
    try:
        check_inputs(config, store, spec.variants)
    except DataError:  # of one tile; what reads them all tells all faults
        prepare(config, store, spec.variants)
        raise
    with ray_cluster():
        found = tune(config, settings, observer=observer)
        return train(config, from_search=search_folder(found.name), observer=observer)
