"""Whether torch's convolutions on this CPU overwrite memory or give wrong gradients, and what channels_last saves.

`uv run python tests/bench/memory_format.py [--instructions AVX2] [--minutes 10] [--speed]` prints Markdown tables; it
needs a C compiler. Each case is a training step and an evaluation in a process of its own whose allocator puts
read-only pages around each tensor and workspace (guard.c). The gradients are compared with float64's, which torch
computes without oneDNN: their error in channels_last and in the contiguous format, as a share of the norm. bf16 rounds
in both, so there the two are compared. The minutes are given to a random part of the cases, and all need hours.

Times are of this process's CPU, the two formats in turn: compare ratios.
"""

import argparse
import itertools
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from saltray.config import MULTIPLES, ModelConfig
from saltray.models.build import build_model
from saltray.models.network import Output

NETWORKS = {
    "albunet": ModelConfig(),
    "albunet, all parts": ModelConfig(
        in_channels=1, decoder_batchnorm=True, scse=True, hypercolumn=True, deep_supervision=True
    ),
    "resnet18": ModelConfig(encoder="resnet18"),
    "resnet50": ModelConfig(encoder="resnet50"),
    "vgg11": ModelConfig(architecture="ternausnet"),
    "vgg16": ModelConfig(architecture="ternausnet", encoder="vgg16"),
    "vgg16_bn, all parts": ModelConfig(
        architecture="ternausnet",
        encoder="vgg16_bn",
        in_channels=1,
        decoder_batchnorm=True,
        scse=True,
        hypercolumn=True,
        deep_supervision=True,
    ),
    "unet": ModelConfig(architecture="unet"),
    "unet, all parts": ModelConfig(
        architecture="unet", in_channels=1, scse=True, hypercolumn=True, deep_supervision=True
    ),
}
WIDTHS = ((4, 8), (8, 16), (16, 32), (32, 64))
"""num_filters and encoder_width: of the demo and the tests, and the published ones."""
FORMATS = (torch.channels_last, torch.contiguous_format)
LARGEST = 2**25
"""Greatest product of a case's pixels and width."""
FP32_ERROR = 0.01
"""Greatest error of a gradient; ReLU and max pooling choose otherwise here and there than in float64."""


class Case(NamedTuple):
    """One network on one input."""

    name: str
    width: tuple[int, int]
    size: int
    batch: int
    precision: Literal["fp32", "bf16"]
    threads: int

    @property
    def wanted(self) -> bool:
        """Whether the network takes this size, and a step ends within a minute; two threads are for one batch size."""
        config = NETWORKS[self.name]
        fits = self.size >= (64 if config.architecture == "albunet" else 32)
        if config.decoder_batchnorm:  # needs two values at the bottom
            fits = fits and self.batch * (self.size // MULTIPLES[config.architecture]) ** 2 > 1
        return fits and self.size**2 * self.batch * self.width[1] <= LARGEST and (self.threads == 1 or self.batch == 2)


def cases() -> list[Case]:
    """All cases, in a random order that is always the same."""
    sizes = (32, 64, 128, 192, 256, 512)
    every = itertools.starmap(
        Case, itertools.product(NETWORKS, WIDTHS, sizes, (1, 2, 4, 8, 16), ("fp32", "bf16"), (1, 2))
    )
    wanted = [case for case in every if case.wanted]
    random.Random(0).shuffle(wanted)
    return wanted


def network_of(case: Case, memory_format: torch.memory_format) -> nn.Module:
    """The case's network, with the same weights in each format."""
    torch.manual_seed(0)
    filters, encoder = case.width
    config = replace(NETWORKS[case.name], num_filters=filters, encoder_width=encoder)
    return build_model(config).to(memory_format=memory_format).train()


def step(network: nn.Module, images: Tensor, *, bf16: bool) -> Tensor:
    """All gradients of a training step, float64, one after the other."""
    network.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        output = network(images)
    tensors = (output.logits, *output.sides, output.has_salt) if isinstance(output, Output) else (output,)
    torch.stack([tensor.float().square().mean() for tensor in tensors]).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten().double() for p in network.parameters() if p.grad is not None])


def check(case: Case) -> tuple[float, float]:
    """The gradients' errors in channels_last and in the contiguous format."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(1)
    images = torch.rand(case.batch, 1, case.size, case.size)
    networks = [network_of(case, memory_format) for memory_format in FORMATS]
    gradients = [step(network, images, bf16=case.precision == "bf16") for network in networks]
    for network in networks:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.precision == "bf16"):
            network.eval()(images)
    with torch.backends.mkldnn.flags(enabled=False):
        exact = step(network_of(case, torch.contiguous_format).double(), images.double(), bf16=False)
    ours, contiguous = (float((gradient - exact).norm() / exact.norm()) for gradient in gradients)
    return ours, contiguous


def verdict(case: Case) -> tuple[str, float, float]:
    """ "right", "wrong" or how the case's process ended, and the errors."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(writer, "{} {}".format(*check(case)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code or not told:
        return f"ended by {code}", 0.0, 0.0
    ours, contiguous = map(float, told.split())
    right = ours <= (FP32_ERROR if case.precision == "fp32" else 1.5 * contiguous + FP32_ERROR)
    return "right" if right else "wrong", ours, contiguous


def check_all(minutes: float) -> bool:
    """Print a row for each network, width and precision; whether all cases were right."""
    found: dict[tuple[str, tuple[int, int], str], list[tuple[Case, str, float, float]]] = defaultdict(list)
    ends = time.monotonic() + 60 * minutes
    everything = cases()
    for case in everything:
        if time.monotonic() < ends:
            found[case.name, case.width, case.precision].append((case, *verdict(case)))
    print("| network | width | precision | cases | largest size | largest batch | error | contiguous | faults |")
    print("|---|---|---|---|---|---|---|---|---|")
    faults = 0
    for (name, width, precision), rows in sorted(found.items()):
        bad = [f"{c.batch}x{c.size} {c.threads}t {how} {error:.2g}" for c, how, error, _ in rows if how != "right"]
        faults += len(bad)
        size, batch = (max(getattr(row[0], field) for row in rows) for field in ("size", "batch"))
        ours, contiguous = (max(row[place] for row in rows) for place in (2, 3))
        print(
            f"| {name} | {width[0]}/{width[1]} | {precision} | {len(rows)} | {size} | {batch} | {ours:.1e} "
            f"| {contiguous:.1e} | {'; '.join(bad) or 'none'} |"
        )
    print(f"\n{sum(map(len, found.values()))} of {len(everything)} cases, {faults} faults\n", flush=True)
    return not faults


def print_speed() -> None:
    """Time of a training step in the contiguous format as a multiple of that in channels_last."""
    torch.set_num_threads(1)
    print("| network | width | precision | size | contiguous / channels_last |\n|---|---|---|---|---|")
    for name, width, precision, size in itertools.product(
        NETWORKS, (WIDTHS[0], WIDTHS[-1]), ("fp32", "bf16"), (128, 256)
    ):
        case = Case(name, width, size, 2, precision, 1)
        images = torch.rand(case.batch, 1, size, size)
        networks = [network_of(case, memory_format) for memory_format in FORMATS]
        ratios = []
        for _ in range(6 if width == WIDTHS[0] else 4):
            times = []
            for network in networks:
                started = time.process_time()
                step(network, images, bf16=precision == "bf16")
                times.append(time.process_time() - started)
            ratios.append(times[1] / times[0])
        ratio = median(ratios[1:])
        print(f"| {name} | {width[0]}/{width[1]} | {precision} | {size} | {ratio:.2f} |", flush=True)


def main() -> None:
    """Check under the guarding allocator, which means in another process, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", default="DEFAULT", help="oneDNN's ONEDNN_MAX_CPU_ISA, e.g. AVX2")
    parser.add_argument("--minutes", type=float, default=10, help="time for the checks")
    parser.add_argument("--speed", action="store_true", help="also measure what channels_last saves")
    parser.add_argument("--guarded", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.guarded:
        sys.exit(0 if check_all(args.minutes) else 1)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        guard = Path(folder) / "guard.so"
        source = Path(__file__).with_name("guard.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", guard, source], check=True)
        ended = subprocess.run(
            [sys.executable, __file__, "--guarded", "--minutes", str(args.minutes)],
            env=os.environ
            | {"LD_PRELOAD": str(guard), "ONEDNN_MAX_CPU_ISA": args.instructions, "OMP_WAIT_POLICY": "passive"},
            check=False,
        )
    if args.speed:
        print_speed()
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
