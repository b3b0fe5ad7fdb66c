"""What a search found, taken over by a training run: `saltray train --lr-from searches/NAME`."""

from typing import Any

from saltray.config import Config
from saltray.distributed.search.space import apply
from saltray.errors import ConfigError, NotFoundError
from saltray.storage.names import open_store

PREFIX = "searches/"


def with_best(config: Config, source: str) -> tuple[Config, dict[str, Any]]:
    """The configuration with the best values of a search, and where they come from, for manifests.

    Args:
        config: of the run; its store holds the search unless `source` says otherwise.
        source: searches/NAME, or the whole URI of a search in another store.

    Raises:
        ConfigError: there is no such search, or it has not come to a result.
    """
    base, found, name = source.rstrip("/").rpartition(PREFIX)
    if not found or not name or "/" in name:
        raise ConfigError(f"{source!r} names no search; use searches/NAME, or STORE/searches/NAME")
    store = open_store(base.rstrip("/") or config.store).sub(f"{PREFIX}{name}")
    try:
        best = store.get_json("best.json")
    except NotFoundError:
        raise ConfigError(
            f"{store.uri} has no best.json; give `saltray tune --search-name {name}` again to finish that search, or "
            "name another"
        ) from None
    origin = {"uri": store.uri, **{key: best[key] for key in ("search", "trial", "values", "score", "trials")}}
    return apply(config, best["values"]), origin
