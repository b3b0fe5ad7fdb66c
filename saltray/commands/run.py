"""`saltray run`: search, train with the best values, publish; in one job."""

from dataclasses import replace

from saltray.commands.prepare import check_inputs
from saltray.commands.train import TrainResult, train
from saltray.commands.tune import tune
from saltray.config import Config, SearchConfig
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.preflight import preflight
from saltray.progress import Observer, log_event
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
    preflight(config.cluster, jobs=1, sharing=1)
    check_inputs(config, open_store(config.store), spec.variants)
    with ray_cluster():
        found = tune(config, settings, observer=observer)
        return train(config, from_search=search_folder(found.name), observer=observer)
