"""What a device's memory cannot hold, in a line with the remedy."""

import os
import re

import torch

from saltray.config import Config

_FULL = re.compile(r"out of memory|ALLOC_FAILED|ALLOCATION_FAILED|can't allocate memory", re.IGNORECASE)
"""In the messages of CUDA, cuDNN, cuBLAS and NCCL, and of torch's allocators on the GPU and the CPU."""
SHARED = 2**30
"""What other processes hold of a GPU before that is told, in bytes: a context without tensors takes half of it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation on the GPU or on the CPU failed.

    Only some of these errors are of a class of their own: libraries of CUDA allocate beside torch.
    """
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None
    )


def memory_shortage(device: torch.device, config: Config, ranks: int) -> str:
    """That the device's memory does not hold a batch, and what does.

    Args:
        device: where an allocation has just failed.
        config: the configuration of the run.
        ranks: of the job, which share the batch.
    """
    batch, size = config.train.batch_size, config.train.input_size
    of_all = f", one of {ranks} parts of train.batch_size {batch}," if ranks > 1 else ""
    total, others = _memory(device)
    has = f"has {_gib(total)}" if total else "is full"
    taken = f", of which other processes hold {_gib(others)}" if others >= SHARED else ""
    each = batch // ranks
    return (
        f"the {'GPU' if device.type == 'cuda' else 'machine'} {has}{taken}, and a batch of {each} "
        f"tile{'s' * (each > 1)}{of_all} at {size}x{size} needs more; {_remedy(config, ranks, taken != '')}"
    )


def _remedy(config: Config, ranks: int, is_shared: bool) -> str:
    """A smaller batch, or a larger share of the GPU."""
    each = config.train.batch_size // ranks
    ways = [f"--train.batch-size {each // 2 * ranks}"] if each > 1 else []
    gpus = config.cluster.gpus_per_worker
    if is_shared and gpus is not None and 0 < gpus < 1:
        ways.append(f"--cluster.gpus-per-worker {min(1, 2 * gpus):g}, so that fewer share it")
    ways.append("" if ways else "a device with more memory, or a smaller --model.num-filters")
    return "use " + ", or ".join(filter(None, ways))


def _memory(device: torch.device) -> tuple[int, int]:
    """All of a device's memory, and what other processes hold of it, in bytes; 0 where that is not known."""
    if device.type != "cuda":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # too little was left even to open the device
        return 0, 0
    return total, max(0, total - free - torch.cuda.memory_reserved(device))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
