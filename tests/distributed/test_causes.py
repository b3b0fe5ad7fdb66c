"""The cause of an error of Ray's, in one line."""

import pytest

from saltray.distributed.causes import cause_in_a_line

CUDA = """ray::_Predict() (pid=7, ip=10.0.0.1)
Traceback (most recent call last):
  File "/v/torch/nn/functional.py", line 1, in relu
    return torch.relu(input)
RuntimeError: CUDA error: no kernel image is available for execution on the device
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (CUDA, "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
        (
            "  at a place\nKeyError: 3\n\nDuring that:\n\nmy.errors.DataError: it broke\n\n",
            "my.errors.DataError: it broke",
        ),
        ("RuntimeError: it broke\nAdvice\n", "RuntimeError: it broke"),
        ("Traceback:\n  at a place\nTimeoutError\n", "TimeoutError"),
        ("Training failed\n  of this: and that  \n", "of this: and that"),
        ("", ""),
    ],
)
def test_the_cause_is_the_last_exception(text: str, cause: str) -> None:
    assert cause_in_a_line(text) == cause
