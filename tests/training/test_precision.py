"""bf16 only where the hardware has it; elsewhere fp32, with one warning."""

from collections.abc import Iterator

import pytest
import torch

from saltray.training import precision
from saltray.training.precision import Precision, autocast, make_scaler, resolve_precision

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


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_without_bf16_computes_in_fp16_with_a_scaler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, supported: bool
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported or including_emulation
    )
    resolve_precision.cache_clear()
    assert [resolve_precision("bf16", gpu) for _ in range(2)] == ["bf16" if supported else "fp16"] * 2
    told = "train.precision is bf16, but this cuda has no bfloat16 instructions; computing in fp16"
    assert caplog.messages == ([] if supported else [told])
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    assert autocast("bf16", gpu).fast_dtype == (torch.bfloat16 if supported else torch.float16)
    assert make_scaler("bf16", gpu).is_enabled() == (not supported)
    assert not make_scaler("fp32", gpu).is_enabled()
    assert not make_scaler("bf16", CPU).is_enabled()
    resolve_precision.cache_clear()
