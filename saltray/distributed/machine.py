"""What this machine has for training: the CPUs that this process may use, and the GPUs that torch can use."""

import math
import os
import subprocess
import warnings
from pathlib import Path

from saltray.distributed.capacity import Node

Gpu = tuple[str, tuple[int, int] | None]
"""Name and compute capability; None where the driver does not tell it."""
SMI_S = 30.0
"""Longest wait for the NVIDIA driver."""


def this_machine() -> Node:
    """Its resources by Ray's names. A Ray that is started here is given these, so that `plan` and `train` agree."""
    import torch

    return {"CPU": float(cpus_here()), "GPU": float(torch.cuda.device_count())}


def cpus_here(root: Path = Path("/")) -> int:
    """CPUs that this process may use: those of its affinity, limited by its cgroups; 1 where they grant less.

    Ray's own count knows no affinity, and of half a CPU it makes none.
    """
    # macOS has no affinity.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([cpus, *_quotas(root)])))


def _quotas(root: Path) -> list[float]:
    """CPUs that the cgroups of this process grant, of version 1 and 2, their own and those above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    mounted = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounted / "cpu" if controllers else mounted
        group = top / path.lstrip("/")
        # In a container the path may be that of the host; then the container's own group is at the top.
        found += [group, *(parent for parent in group.parents if parent.is_relative_to(top))]
    return [quota for folder in found if (quota := _quota(folder)) is not None]


def _quota(group: Path) -> float | None:
    """CPUs that one cgroup grants; None where it sets no limit."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
        except (OSError, ValueError):  # of the other version, or the group above all
            continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return None


def gpu_fault() -> str | None:
    """Why torch cannot use the NVIDIA GPUs of this machine; None if it can, there are none, or the user hides them."""
    gpus, chosen = _nvidia_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not gpus or chosen in ("", "-1"):
        return None
    import torch

    found = f"found {len(gpus)} x {gpus[0][0]}"
    built = f"torch {torch.__version__}"
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return f"{found}, but {built} is built without CUDA"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            reason = str(told[0].message).split(". ")[0] if told else "the driver gives no access to it"
            return f"{found}, but {built} cannot use it: {reason}"
    architectures = torch.cuda.get_arch_list()
    for name, capability in _chosen(gpus, chosen):
        if capability and architectures and not _runs_on(architectures, capability):
            return (
                f"found {name} of compute capability {'.'.join(map(str, capability))}, but {built} is built for "
                f"{', '.join(architectures)}"
            )
    return None


def _chosen(gpus: list[Gpu], chosen: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names; none where that cannot be told from the driver's list."""
    if chosen is None:
        return gpus
    # CUDA's own order is by speed, the driver's by the bus.
    same_order = len(set(gpus)) == 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    indices = chosen.split(",")
    if not same_order or not all(index.isdecimal() and int(index) < len(gpus) for index in indices):
        return []
    return [gpus[int(index)] for index in indices]


def _nvidia_gpus() -> list[Gpu]:
    """All of this machine, as the driver tells them: torch knows of none that it cannot use."""
    command = ["nvidia-smi", "--query-gpu=compute_cap,name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SMI_S)
    except (OSError, subprocess.TimeoutExpired):  # no NVIDIA driver, or none that answers
        return []
    if told.returncode != 0:
        return []
    gpus: list[Gpu] = []
    for line in told.stdout.splitlines():
        capability, _, name = line.partition(", ")
        major, _, minor = capability.partition(".")
        known = major.isdecimal() and minor.isdecimal()
        gpus.append((name or line, (int(major), int(minor)) if known else None))
    return gpus


def _runs_on(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for one of these, such as sm_90 or compute_90, runs on a GPU of this compute capability.

    Machine code (sm) runs on later GPUs of the same major version, intermediate code (compute) on all later ones.
    """
    for architecture in architectures:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
        if not digits.isdecimal():  # not NVIDIA's
            return True
        built = divmod(int(digits), 10)
        exact = digits != number
        if capability == built or (
            not exact and capability > built and (kind == "compute" or capability[0] == built[0])
        ):
            return True
    return False
