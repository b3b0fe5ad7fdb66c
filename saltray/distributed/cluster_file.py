"""The nodes that a cluster.yaml lets Ray's autoscaler start."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from saltray.distributed.capacity import Node
from saltray.errors import ConfigError, one_line
from saltray.records import RECORD_BYTES, RecordError, from_record
from saltray.wording import plain

ON_HEAD = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the file on the head node, with the resources that it knows of each node type."""
MAX_NODES = 10_000
MAX_RESOURCE = 1e12
MAX_VALUES = 100_000
"""Most values of a file, counted where its aliases are used."""

NodeCount = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class _NodeType:
    """What matters here of a node type; Ray knows more fields."""

    resources: dict[str, Any] | None = None
    max_workers: NodeCount | None = None
    priority: int = 0


@dataclass(frozen=True, kw_only=True)
class _ClusterFile:
    available_node_types: dict[str, _NodeType]
    head_node_type: str
    max_workers: NodeCount


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
    file = _parse(path)
    types, head, limit = file.available_node_types, file.head_node_type, min(file.max_workers, MAX_NODES)
    unknown = [name for name, described in types.items() if not described.resources]
    found = [
        (described.priority, name, _counts(described.resources))
        for name, described in types.items()
        if described.resources
        for _ in range(1 if name == head else _at_most(limit, described.max_workers))
    ]
    if complete and unknown:
        names = ", ".join(map(plain, unknown[:3])) + f" and {len(unknown) - 3} more" * (len(unknown) > 3)
        raise ConfigError(
            f"{path} has no resources for {names}; list there what such a node has, for instance "
            "resources: {CPU: 4, GPU: 1}"
        )
    heads = [(name, node) for _, name, node in found if name == head]
    ranked = sorted(found, key=lambda one: (one[2].get("GPU", 0), one[2].get("CPU", 0), one[0]), reverse=True)
    return heads + [(name, node) for _, name, node in ranked if name != head][:limit]


def _parse(path: Path) -> _ClusterFile:
    try:
        record = _known(_ClusterFile, _load(path.expanduser()))
        if isinstance(record, dict) and isinstance(types := record.get("available_node_types"), dict):
            record["available_node_types"] = {name: _known(_NodeType, described) for name, described in types.items()}
        file = from_record(_ClusterFile, record)
        if file.head_node_type not in file.available_node_types:
            raise RecordError(f"there is no node type {file.head_node_type}")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read {path}: {reason}; name a cluster.yaml") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = one_line(error)
        raise ConfigError(f"{path} is not YAML: {reason}; correct it there") from error
    except RecordError as error:
        raise ConfigError(
            f"{path} describes no cluster ({one_line(error)}); it needs available_node_types, "
            "head_node_type and max_workers, as saltray's own cluster.yaml has them"
        ) from error
    return file


def _load(path: Path) -> Any:
    """The values of a YAML file, unless its aliases repeat so many that they fill the memory."""
    with path.open("rb") as file:
        data = file.read(RECORD_BYTES + 1)
    if len(data) > RECORD_BYTES:
        raise RecordError(f"it has more than {RECORD_BYTES:,} bytes")
    loader = yaml.SafeLoader(data.decode())
    try:
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MAX_VALUES:
            raise RecordError(f"it has more than {MAX_VALUES:,} values, repeated ones counted")
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Number of values in a node with its aliases replaced by what they stand for."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # of a node within itself
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in below)
    return sizes[id(node)]


def _known(kind: type[Any], record: Any) -> Any:
    """The part of a record that has the fields of `kind`."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in record.items() if name in names} if isinstance(record, dict) else record


def _at_most(limit: int, own: int | None) -> int:
    return limit if own is None else min(limit, own)


def _counts(resources: Mapping[str, Any]) -> Node:
    """The resources that are numbers."""
    return {
        kind: float(count)
        for kind, count in resources.items()
        if isinstance(count, int | float) and 0 <= count <= MAX_RESOURCE
    }
