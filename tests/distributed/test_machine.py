"""What this machine has: its CPUs by files as the kernel writes them, its GPUs by a driver that answers as NVIDIA's."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saltray.distributed import machine
from saltray.distributed.machine import cpus_here, gpu_fault, this_machine

Cgroup = Callable[[str, str, str], None]


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    """Writes a file of a machine of eight CPUs: `cgroup(/proc/self/cgroup, path below /sys/fs/cgroup, text)`."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    def write(line: str, path: str, text: str) -> None:
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self/cgroup").write_text(line)
        file = tmp_path / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("50000 100000\n", 1), ("100000 100000\n", 1), ("250000 100000\n", 2), ("max 100000\n", 8), ("junk\n", 8)],
)
def test_a_container_grants_cpus(cgroup: Cgroup, tmp_path: Path, text: str, cpus: int) -> None:
    cgroup("0::/\n", "cpu.max", text)
    assert cpus_here(tmp_path) == cpus


def test_the_least_of_all_groups_above_counts(cgroup: Cgroup, tmp_path: Path) -> None:
    line = "0::/user.slice/job.scope\n"
    cgroup(line, "user.slice/cpu.max", "300000 100000\n")
    assert cpus_here(tmp_path) == 3
    cgroup(line, "user.slice/job.scope/cpu.max", "500000 100000\n")
    assert cpus_here(tmp_path) == 3


@pytest.mark.parametrize(("quota", "cpus"), [("150000\n", 1), ("400000\n", 4), ("-1\n", 8)])
def test_cgroups_of_version_1(cgroup: Cgroup, tmp_path: Path, quota: str, cpus: int) -> None:
    """The path is that of the host, of which a container sees its own group alone."""
    line = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n"
    cgroup(line, "cpu/cpu.cfs_period_us", "100000\n")
    cgroup(line, "cpu/cpu.cfs_quota_us", quota)
    assert cpus_here(tmp_path) == cpus


def test_the_affinity_counts_too(cgroup: Cgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup("0::/\n", "cpu.max", "400000 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 7})
    assert cpus_here(tmp_path) == 2


def test_a_system_without_cgroups_and_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cpus_here(tmp_path) == os.cpu_count()


def test_this_machine_by_rays_names() -> None:
    assert this_machine() == {"CPU": float(cpus_here()), "GPU": float(torch.cuda.device_count())}


# GPUs


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts an nvidia-smi that prints these lines in the place of this machine's."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*lines: str, code: int = 0) -> None:
        smi = tmp_path / "nvidia-smi"
        smi.write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in lines), f"exit {code}", ""]))
        smi.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    return install


@pytest.fixture
def torch_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets torch be as on another machine: `torch_here(built=True, available=True, architectures=["sm_90"])`."""

    def pretend(*, built: bool = True, available: bool = True, warning: str = "", architectures: list[str]) -> None:
        def is_available() -> bool:
            if warning:
                warnings.warn(warning, stacklevel=2)
            return available

        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)

    return pretend


H100 = "9.0, NVIDIA H100 80GB HBM3"
K40 = "3.5, Tesla K40m"


def test_no_gpu_is_no_fault(driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    driver("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", code=9)
    assert gpu_fault() is None
    driver()
    assert gpu_fault() is None
    monkeypatch.setenv("PATH", "")
    assert gpu_fault() is None


def test_a_torch_for_cpus(driver: Callable[..., None], torch_here: Callable[..., None]) -> None:
    driver(H100, H100)
    torch_here(built=False, available=False, architectures=[])
    assert gpu_fault() == (f"found 2 x NVIDIA H100 80GB HBM3, but torch {torch.__version__} is built without CUDA")


def test_gpus_that_the_user_hides_are_none(
    driver: Callable[..., None], torch_here: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(H100)
    torch_here(built=False, available=False, architectures=[])
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert gpu_fault() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpu_fault() is not None


def test_a_driver_that_is_too_old_is_told_in_torchs_words(
    driver: Callable[..., None], torch_here: Callable[..., None]
) -> None:
    driver("[N/A], Tesla V100")
    told = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update"
    torch_here(available=False, warning=told, architectures=["sm_70"])
    assert str(gpu_fault()).endswith(
        "cannot use it: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"
    )
    torch_here(available=False, architectures=["sm_70"])
    assert str(gpu_fault()).endswith("cannot use it: the driver gives no access to it")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ("9.0", ["sm_75", "sm_90"], True),
        ("8.9", ["sm_80"], True),  # later, of the same major version
        ("8.0", ["sm_86"], False),
        ("7.0", ["sm_75", "sm_90", "compute_90"], False),
        ("12.0", ["sm_90"], False),
        ("12.0", ["sm_90", "compute_90"], True),  # compiled when it is loaded
        ("12.0", ["sm_90", "sm_120"], True),
        ("9.1", ["sm_90a"], False),
        ("9.0", ["sm_90a"], True),
        ("6.1", ["gfx90a"], True),  # AMD's are not compared
        ("[N/A]", ["sm_90"], True),  # an old driver does not tell
    ],
)
def test_a_gpu_that_torch_is_not_built_for(
    driver: Callable[..., None],
    torch_here: Callable[..., None],
    capability: str,
    architectures: list[str],
    runs: bool,
) -> None:
    driver(f"{capability}, NVIDIA X")
    torch_here(architectures=architectures)
    fault = gpu_fault()
    assert (fault is None) == runs
    if fault is not None:
        assert fault.startswith(f"found NVIDIA X of compute capability {capability}, but torch ")
        assert fault.endswith(f" is built for {', '.join(architectures)}")


@pytest.mark.parametrize(
    ("gpus", "chosen", "order", "told"),
    [
        ((H100, K40), None, "", True),
        ((H100, K40), "0", "PCI_BUS_ID", False),
        ((H100, K40), "1", "PCI_BUS_ID", True),
        ((H100, K40), "0,1", "PCI_BUS_ID", True),
        ((H100, K40), "1", "", False),  # CUDA counts by speed, and the driver does not say how
        ((K40, K40), "1", "", True),
        ((K40, K40), "2", "", False),
        ((K40, K40), "GPU-8932f937", "", False),
    ],
)
def test_only_the_gpus_that_the_user_names_are_judged(
    driver: Callable[..., None],
    torch_here: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    gpus: tuple[str, ...],
    chosen: str | None,
    order: str,
    told: bool,
) -> None:
    driver(*gpus)
    torch_here(architectures=["sm_90"])
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    fault = gpu_fault()
    assert (fault is not None) == told
    assert fault is None or "found Tesla K40m of compute capability 3.5" in fault


def test_a_driver_that_does_not_answer_is_not_waited_for(
    driver: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(H100)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(machine, "SMI_S", 0.1)
    assert gpu_fault() is None
