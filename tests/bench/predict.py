"""Tiles per second of prediction: `uv run python tests/bench/predict.py [--tiles 400] [--rounds 3] [--out FILE]`.

An ensemble of five folds with random weights, thin and at full width, predicts synthetic tiles with test-time
augmentation in three ways, in turn: a plain loop as a user writes it (PIL, torch's autocast, each model on the tiles
and on their mirror images), `Ensemble.predict_masks`, and `saltray.predict`, as a whole and without its start-up.
Prints a Markdown table of medians. Other load on the machine slows all three: compare the ratios, which are of one
round each; CPU seconds are those of all processes.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

import saltray
from saltray.config import Config, FoldConfig, ModelConfig, TrainConfig
from saltray.data.augment import crop_from, pad_to
from saltray.data.pixel_range import PixelRange
from saltray.ensemble.load import Ensemble
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel, publish
from saltray.models.build import build_model
from saltray.progress import Event, TilesPredicted
from saltray.storage.uri import open_store
from saltray.training.precision import autocast

sys.path.insert(0, str(Path(__file__).parents[1]))
from samples import EVALUATION, dataset

FOLDS = 5
WIDTHS = {"thin": (8, 16), "full": (32, 64)}
"""num_filters and encoder_width."""
PLAIN_BATCH = 32
FEW = 16
"""Batches of a prediction below which its rate is not told."""
THRESHOLD = 0.5


def publish_random(store: str, name: str) -> str:
    """URI of an ensemble whose weights are random and whose probabilities vary."""
    filters, encoder = WIDTHS[name]
    model = ModelConfig(num_filters=filters, encoder_width=encoder)
    config = Config(data="unused", run=name, folds=FoldConfig(count=FOLDS), model=model, train=TrainConfig())
    torch.manual_seed(0)
    images, models, home = torch.rand(4, 1, 128, 128), [], open_store(store)
    for fold in range(FOLDS):
        network = build_model(config.model)
        with torch.no_grad():
            for _ in range(3):
                network.train()(images)  # statistics of BatchNorm
            logits, final = network.eval()(images), network.final
            assert isinstance(final, torch.nn.Conv2d)
            assert final.bias is not None
            final.bias.copy_((final.bias - logits.mean()) / logits.std())
            final.weight /= logits.std()
        weights, key = save(network.state_dict()), f"runs/{name}/fold-{fold}/model.safetensors"
        home.put(key, weights)
        models.append(FoldModel(fold=fold, key=key, sha256=hashlib.sha256(weights).hexdigest(), score=0.7))
    publish(
        home,
        config=config,
        models=models,
        postprocess=Postprocess(threshold=THRESHOLD),
        score=0.7,
        score_at_threshold=0.7,
        baseline=0.4,
        evaluation=EVALUATION,
        dataset=replace(dataset(), height=101, width=101, pixel_range=PixelRange(bits=8, maximum=255)),
    )
    return f"{store}/ensembles/{name}"


def write_tiles(folder: Path, count: int) -> list[Path]:
    draw, paths = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for number in range(count):
        rough = Image.fromarray(draw.integers(0, 256, (26, 26), np.uint8)).resize((101, 101), Image.Resampling.BICUBIC)
        rough.save(path := folder / f"{number:06}.png")
        paths.append(path)
    return paths


def plain_loop(models: Sequence[torch.nn.Module], paths: Sequence[Path], device: torch.device) -> None:
    """What a user writes in a notebook."""
    for start in range(0, len(paths), PLAIN_BATCH):
        images = np.stack([np.asarray(Image.open(path).convert("L")) for path in paths[start : start + PLAIN_BATCH]])
        inputs = pad_to(torch.from_numpy(images).to(device), 128)[:, None].float() / 255
        with torch.inference_mode(), autocast("bf16", device):
            ways = [
                (model(x)[:, 0], mirrored) for model in models for x, mirrored in ((inputs, 0), (inputs.flip(-1), 1))
            ]
        parts = [(logits.flip(-1) if mirrored else logits).float().sigmoid() for logits, mirrored in ways]
        crop_from(torch.stack(parts).mean(0), 101, 101).gt(THRESHOLD).cpu().numpy()


def cpu_seconds() -> float:
    """Of this process and of all that descend from it, the ended ones that were waited for among them."""
    times, children = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            times[entry.name] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
            children.setdefault(fields[1], []).append(entry.name)
    total, todo = 0.0, [str(os.getpid())]
    while todo:
        process = todo.pop()
        total += times.get(process, 0)
        todo += children.get(process, [])
    return total


def peak_mb() -> float:
    """Proportional memory of this process and of all that descend from it, now."""
    parents, sizes = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[entry.name] = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                rows = (entry / "smaps_rollup").read_text().splitlines()
                sizes[entry.name] = next(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024
            except (OSError, StopIteration):
                continue
    own = {str(os.getpid())}
    while more := {process for process, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(sizes.get(process, 0) for process in own)


def measured(work: Callable[..., object], *arguments: object) -> dict[str, float]:
    wall, cpu = time.perf_counter(), cpu_seconds()
    work(*arguments)
    return {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}


def whole_command(uri: str, folder: Path, tiles: int, out: Path) -> dict[str, float]:
    """Seconds of `saltray.predict`; of its tiles after the first batch, extrapolated to all; and its peak memory.

    The batches in flight when the first one ends would count as done in no time, so of few batches there is no rate.
    """
    seen: list[tuple[int, float, float]] = []
    memory = [0.0]

    def watch(event: Event) -> None:
        if isinstance(event, TilesPredicted):
            seen.append((event.done, time.perf_counter(), cpu_seconds()))
            memory.append(peak_mb())

    started, cpu = time.perf_counter(), cpu_seconds()
    saltray.predict(ensemble=uri, data=str(folder), out=out, observer=watch)
    first, last = seen[0], seen[-1]
    found = {
        "wall_s": time.perf_counter() - started,
        "cpu_s": last[2] - cpu,
        "memory_mb": max(memory),
    }
    if last[0] >= FEW * first[0]:
        share = tiles / (last[0] - first[0])
        found |= {"steady_wall_s": (last[1] - first[1]) * share, "steady_cpu_s": (last[2] - first[2]) * share}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", choices=WIDTHS, action="append", help="one of them; both unless given")
    parser.add_argument("--out", type=Path, help="JSON with each round")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, list[dict[str, dict[str, float]]]] = {}
    print(f"{given.tiles} tiles, {FOLDS} models, mirror images; {os.cpu_count()} CPUs, device {device}; medians\n")
    print("| network | way | tiles/s | to the loop | tiles per CPU s | to the loop | memory MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for width in given.width or WIDTHS:
            # At full width a tile takes nine times as long.
            count = given.tiles if width == "thin" else max(given.tiles // 4, 32)
            folder = Path(scratch, width, "test/images")
            paths, uri = write_tiles(folder, count), publish_random(f"{scratch}/store", width)
            ensemble = Ensemble.load(uri, device=device)
            images = np.stack([np.asarray(Image.open(path)) for path in paths])
            rounds = results[width] = []
            for _ in range(given.rounds):
                rounds.append(
                    {
                        "plain loop": measured(plain_loop, ensemble.models, paths, device),
                        "Ensemble.predict_masks": measured(ensemble.predict_masks, images),
                        "saltray.predict": whole_command(uri, folder.parents[1], count, Path(scratch, "x.csv")),
                    }
                )
                if "steady_wall_s" in (whole := rounds[-1]["saltray.predict"]):
                    rounds[-1]["without its start-up"] = {kind: whole[f"steady_{kind}"] for kind in ("wall_s", "cpu_s")}
            for way in rounds[0]:
                cells = []
                for kind in ("wall_s", "cpu_s"):
                    speed = median(count / one[way][kind] for one in rounds)
                    gain = median(one["plain loop"][kind] / one[way][kind] for one in rounds)
                    cells += [f"{speed:.1f}", f"{gain:.2f}"]
                memory = max(one[way].get("memory_mb", 0) for one in rounds)
                print(f"| {width} | {way} | {' | '.join(cells)} | {f'{memory:.0f}' if memory else ''} |", flush=True)
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
