"""Whether all machines of a cluster see one store; a folder may well be another one on each."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from saltray.errors import ConfigError
from saltray.storage import Store


def check_on_every_node(home: Store) -> None:
    """See from each live machine that what the driver wrote is there. A machine that comes later sees for itself.

    Args:
        home: the part of the store of a run or a search that has begun.

    Raises:
        ConfigError: some machines do not see it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if home.uri.startswith("s3://") or len(nodes) == 1:
        return
    look = ray.remote(num_cpus=0)(_sees)
    seen = ray.get([look.options(scheduling_strategy=_on(node["NodeID"])).remote(home) for node in nodes])
    blind = [node["NodeManagerAddress"] for node, sees in zip(nodes, seen, strict=True) if not sees]
    if blind:
        raise ConfigError(
            f"{home.uri} is not the same folder on every node: {', '.join(blind)} {'do' if len(blind) > 1 else 'does'} "
            "not see what was written there; use s3://, or a folder that all nodes share"
        )


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _sees(home: Store) -> bool:
    return home.exists("manifest.json")
