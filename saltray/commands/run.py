"""`saltray run`: search, train with the best values, publish; in one job."""

from dataclasses import replace

from saltray.commands.prepare import open_for_writing, prepare
from saltray.commands.publish_run import TrainResult
from saltray.commands.train import check_run, take_best_values, train_prepared
from saltray.commands.tune import check_search, make_spec, tune_prepared
from saltray.config import Config, SearchConfig
from saltray.distributed.cluster import ray_cluster
from saltray.progress import Observer, log_event
from saltray.runs.initial_weights import origins_before
from saltray.search.layout import search_folder
from saltray.search.trials import SearchManifest


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
    spec = make_spec(config, replace(settings, name=settings.name or config.run))
    # What is impossible is refused before Ray starts.
    store = open_for_writing(config.store)
    check_search(spec, store)
    check_run(config, store, range(config.folds.count))
    # For both: neither the tiles, nor their split, nor the initial weights can be searched.
    before = origins_before(store.sub(search_folder(spec.name)), SearchManifest, spec.config)
    prepared = prepare(spec.config, store, spec.variants, before=before, observer=observer)
    with ray_cluster(observer=observer):
        tune_prepared(config, spec, store, prepared, observer)
        best, found = take_best_values(config, search_folder(spec.name), observer)
        result = train_prepared(best, store, prepared, range(best.folds.count), found, observer)
    assert isinstance(result, TrainResult)  # all folds were asked for
    return result
