"""Which errors say that memory is short, and what the user is told."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from saltray.config import ClusterConfig, Config
from saltray.training.device_memory import is_out_of_memory, memory_shortage

GIB = 2**30


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("NCCL error: ncclUnhandledCudaError; Cuda failure 2 'out of memory'"),
    ],
)
def test_errors_of_full_memory(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_the_cpu_allocator_says_so_too() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), MemoryError("out of memory"), ValueError("allocate")])
def test_other_errors(error: Exception) -> None:
    assert not is_out_of_memory(error)


def told(monkeypatch: pytest.MonkeyPatch, batch: int, cluster: dict[str, Any], free: float, own: float) -> str:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), int(79.1 * GIB)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(own * GIB))
    config = Config(data="d", cluster=ClusterConfig(**cluster))
    config = replace(config, train=replace(config.train, batch_size=batch))
    return memory_shortage(torch.device("cuda:0"), config, config.cluster.workers_per_fold)


@pytest.mark.parametrize(
    ("batch", "cluster", "free", "own", "text"),
    [
        (
            512,
            {},
            0.6,
            78,
            "the GPU has 79.1 GiB, and a batch of 512 tiles at 128x128 needs more; use --train.batch-size 256",
        ),
        (
            33,
            {"gpus_per_worker": 0.2},
            0.1,
            16,
            (
                "the GPU has 79.1 GiB, of which other processes hold 63.0 GiB, and a batch of 33 tiles at 128x128 "
                "needs more; use --train.batch-size 16, or --cluster.gpus-per-worker 0.4, so that fewer share it"
            ),
        ),
        (
            6,
            {"workers_per_fold": 2},
            0.1,
            79,
            (
                "the GPU has 79.1 GiB, and a batch of 3 tiles, one of 2 parts of train.batch_size 6, at 128x128 needs "
                "more; use --train.batch-size 2"
            ),
        ),
        (
            1,
            {},
            0.1,
            79,
            (
                "the GPU has 79.1 GiB, and a batch of 1 tile at 128x128 needs more; use a device with more memory, or "
                "a smaller --model.num-filters"
            ),
        ),
    ],
)
def test_the_remedy(
    batch: int, cluster: dict[str, Any], free: float, own: float, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, batch, cluster, free, own) == text


def test_a_gpu_that_cannot_even_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)
    text = memory_shortage(torch.device("cuda:0"), Config(data="d"), 1)
    assert text.startswith("the GPU is full, and a batch of 32 tiles ")


def test_the_memory_of_a_machine() -> None:
    text = memory_shortage(torch.device("cpu"), Config(data="d"), 1)
    assert text.startswith("the machine has ")
    assert text.endswith(" GiB, and a batch of 32 tiles at 128x128 needs more; use --train.batch-size 16")
