"""bf16 only where the hardware has it; elsewhere fp32, with one warning."""

from collections.abc import Iterator

import pytest
import torch

from saltray.training import precision
from saltray.training.precision import Precision, autocast, resolve_precision

CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["bf16", "no-bf16"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether the device has bfloat16 instructions."""
    monkeypatch.setattr(precision, "_has_bf16", lambda device: request.param)
    resolve_precision.cache_clear()
    yield request.param
    resolve_precision.cache_clear()


def test_bf16_needs_hardware_support(native: bool, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert resolve_precision("fp32", CPU) == "fp32"
        assert resolve_precision("bf16", CPU) == ("bf16" if native else "fp32")
    warning = "train.precision is bf16, but this cpu has no bfloat16 instructions; computing in fp32"
    assert caplog.messages == ([] if native else [warning])


@pytest.mark.parametrize("asked", ["bf16", "fp32"])
def test_autocast_computes_in_the_resolved_precision(native: bool, asked: Precision) -> None:
    with autocast(asked, CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if native and asked == "bf16" else torch.float32)


def test_the_cpu_reports_its_own_support() -> None:
    resolve_precision.cache_clear()
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert resolve_precision("bf16", CPU) == ("bf16" if supported else "fp32")
