"""Precision of the forward pass."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Literal

import torch
from torch.amp import GradScaler

Precision = Literal["bf16", "fp32"]
"""The setting."""
Arithmetic = Literal["bf16", "fp16", "fp32"]
"""What a device computes in."""
_TYPES: Mapping[Arithmetic, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
log = logging.getLogger(__name__)


@cache  # so that each process logs the warning once
def resolve_precision(precision: Precision, device: torch.device) -> Arithmetic:
    """The arithmetic of a device; with a warning another one than bf16, where that has no hardware support.

    A GPU without bfloat16 computes in float16, which needs `make_scaler`. A CPU without it emulates either of them at a
    tenth of float32's speed or less, so there it is float32.
    """
    if precision == "fp32" or _has_bf16(device):
        return precision
    instead: Arithmetic = "fp16" if device.type == "cuda" else "fp32"
    log.warning(
        "train.precision is bf16, but this %s has no bfloat16 instructions; computing in %s", device.type, instead
    )
    return instead


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Context manager for a forward pass in the arithmetic that `resolve_precision` gives."""
    arithmetic = resolve_precision(precision, device)
    # Where it is off, torch still checks that the device supports the type.
    kind = torch.bfloat16 if arithmetic == "fp32" and device.type == "cpu" else _TYPES[arithmetic]
    return torch.autocast(device.type, dtype=kind, enabled=arithmetic != "fp32")


def make_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """Scales the loss where gradients are float16, whose smallest would be 0 otherwise; elsewhere it does nothing.

    With a fused optimizer, a step whose gradients overflow is skipped on the device itself, without synchronisation.
    """
    return GradScaler(device.type, enabled=resolve_precision(precision, device) == "fp16")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch has no public name for it
