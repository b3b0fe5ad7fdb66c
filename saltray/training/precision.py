"""Precision of the forward pass."""

import logging
from functools import cache
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]
log = logging.getLogger(__name__)


@cache  # so that each process logs the warning once
def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision to compute in on a device: fp32, with a warning, where bf16 has no hardware support.

    A CPU without bfloat16 instructions emulates them at a tenth of float32's speed or less.
    """
    if precision == "fp32" or _has_bf16(device):
        return precision
    log.warning("train.precision is bf16, but this %s has no bfloat16 instructions; computing in fp32", device.type)
    return "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Context manager for a forward pass in the precision that `resolve_precision` gives."""
    enabled = resolve_precision(precision, device) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch has no public name for it
