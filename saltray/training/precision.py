"""The arithmetic of the forward pass."""

import logging
from functools import cache
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]
log = logging.getLogger(__name__)


@cache  # so that it is said once a process
def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """What `train.precision` means on a device: bf16 only where there are instructions for it.

    Without them a CPU emulates bfloat16 at a tenth of float32's speed and less; there it is fp32, with a line in the
    log.
    """
    if precision == "fp32" or _has_bf16(device):
        return precision
    log.warning("train.precision is bf16, but this %s has no bfloat16 arithmetic; computing in fp32", device.type)
    return "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Context of a forward pass."""
    enabled = resolve_precision(precision, device) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch has no public name for it
