"""The nodes that a cluster.yaml lets Ray's autoscaler start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from saltray.distributed.capacity import Node
from saltray.errors import ConfigError

ON_HEAD = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the file on the head node, with the resources that it knows of each node type."""


def cluster_nodes(path: Path, *, complete: bool = True) -> list[tuple[str, Node]]:
    """Type and resources of each node of the cluster at its largest, the head node first.

    Where all types together may have more nodes than the whole cluster, those with the most GPUs count, and among
    equals those of the highest priority, as in Ray's autoscaler.

    Args:
        path: a cluster.yaml.
        complete: whether it must list the resources of every type; otherwise types without are left out, as with Ray's
            provider `local`, which lists none.

    Raises:
        ConfigError: there is no such file, it describes no cluster, or a type has no resources.
    """
    try:
        record = yaml.safe_load(path.expanduser().read_text())
        types: Mapping[str, Any] = record["available_node_types"]
        head, limit = record["head_node_type"], int(record["max_workers"])
        unknown = [name for name, described in types.items() if not described.get("resources")]
        if head not in types:
            raise KeyError(f"no node type {head}")
        found = [
            (int(described.get("priority", 0)), name, _counts(described["resources"]))
            for name, described in types.items()
            if described.get("resources")
            for _ in range(1 if name == head else min(limit, int(described.get("max_workers", limit))))
        ]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read {path}: {reason}; name a cluster.yaml") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}; correct it there") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} describes no cluster ({type(error).__name__}: {error}); it needs available_node_types, "
            "head_node_type and max_workers, as saltray's own cluster.yaml has them"
        ) from error
    if complete and unknown:
        raise ConfigError(
            f"{path} has no resources for {', '.join(unknown)}; list there what such a node has, for instance "
            "resources: {CPU: 4, GPU: 1}"
        )
    heads = [(name, node) for _, name, node in found if name == head]
    ranked = sorted(found, key=lambda one: (one[2].get("GPU", 0), one[2].get("CPU", 0), one[0]), reverse=True)
    return heads + [(name, node) for _, name, node in ranked if name != head][:limit]


def _counts(resources: Mapping[str, Any]) -> Node:
    """The resources that are numbers."""
    return {str(kind): float(count) for kind, count in resources.items() if isinstance(count, int | float)}
