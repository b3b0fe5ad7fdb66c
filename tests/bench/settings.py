"""Which setting helps? `uv run python tests/bench/settings.py STORE [--data DATA] [--epochs N] [--only NAME ...]`.

Trains fold 0 once with each setting, all with the same tiles, seed, number of epochs and thin network, and compares
its held-out predictions with those of plain AlbuNet by paired bootstrap. Each training is a run of its own in STORE,
and the same command resumes: it takes hours on a CPU. DATA is a folder, a zip, or a data set of STORE by name.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import saltray
from saltray.errors import ConfigError, NotFoundError
from saltray.runs.run import fold_result
from saltray.storage.uri import open_store

BASELINE = "plain"
THIN = ("--model.num-filters", "8", "--model.encoder-width", "16")
PLAIN = ("--model.no-decoder-batchnorm", "--model.no-deep-supervision")
"""AlbuNet as published; flags of a setting win."""
FLIP_ONLY = tuple(
    word for name in ("rotate", "scale", "shift", "brightness", "contrast") for word in (f"--augment.{name}", "0")
)
SETTINGS: dict[str, tuple[str, ...]] = {
    BASELINE: (),
    "bce": ("--loss.dice", "0"),
    "dice": ("--loss.bce", "0"),
    "focal": ("--loss.bce", "0", "--loss.focal", "4"),
    "lovasz-half": ("--late-loss.after", "{half}", "--late-loss.lovasz", "1"),
    "lovasz-elu-half": ("--late-loss.after", "{half}", "--late-loss.lovasz-elu", "1"),
    "lovasz-elu-bce": ("--loss.dice", "0", "--loss.lovasz-elu", "0.5"),
    "batchnorm": ("--model.decoder-batchnorm",),
    "scse": ("--model.scse",),
    "hypercolumn": ("--model.hypercolumn",),
    "deep-supervision": ("--model.deep-supervision",),
    "batchnorm-deep": ("--model.decoder-batchnorm", "--model.deep-supervision"),
    "batchnorm-deep-focal": (
        *("--model.decoder-batchnorm", "--model.deep-supervision"),
        *("--loss.bce", "0", "--loss.focal", "4"),
    ),
    "one-channel": ("--model.in-channels", "1"),
    "no-ema": ("--optim.ema-decay", "0"),
    "ema-099": ("--optim.ema-decay", "0.99"),
    "no-augmentation": ("--augment.flip", "0", *FLIP_ONLY),
    "flip-only": FLIP_ONLY,
    "batch-16": ("--train.batch-size", "16"),
    "lr-3e-3": ("--optim.lr", "3e-3"),
    "lr-3e-4": ("--optim.lr", "3e-4"),
    "lr-tuned": ("--from-search", "searches/settings"),
    "pretrained": ("--model.weights", "{store}/pretrained/settings/model.safetensors"),
}
"""Name of a run -> its flags."""


@dataclass(frozen=True)
class Row:
    """One setting against plain AlbuNet."""

    setting: str
    score: float
    difference: float
    low: float
    high: float
    probability: float
    seconds: float


def saltray_command(*words: str) -> None:
    """Run a command of saltray's with its output, and end with its exit code if it fails."""
    done = subprocess.run([Path(sys.executable).with_name("saltray"), *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def train(name: str, data: str, store: str, epochs: int) -> None:
    """Train fold 0 with one setting, as far as it is not trained."""
    if name == "pretrained":
        pretraining = ("--pretrain.name", "settings", "--train.epochs", str(epochs))
        saltray_command("pretrain", "--data", data, "--store", store, *pretraining, *THIN, *PLAIN)
    if name == "lr-tuned":
        search = ("--search.name", "settings", "--search.trials", "8", "--search.epochs", str(max(epochs // 2, 1)))
        length = ("--train.epochs", str(epochs))
        saltray_command("tune", "--data", data, "--store", store, *search, *length, *THIN, *PLAIN)
    flags = [word.format(half=epochs // 2, store=store) for word in SETTINGS[name]]
    run = ("--run", name, "--only-folds", "0", "--train.epochs", str(epochs))
    saltray_command("train", "--data", data, "--store", store, *run, *THIN, *PLAIN, *flags)


def rows(store: str) -> list[Row]:
    """What is finished so far, the best first."""
    found = []
    for name in SETTINGS:
        try:
            compared = saltray.compare(BASELINE, name, store=store, out=f"{store}/compare-{name}.png")
        except (ConfigError, NotFoundError):  # not finished; or the baseline itself
            continue
        result = fold_result(open_store(store).sub(f"runs/{name}"), 0)
        assert result is not None
        each, interval = compared.overall, compared.overall.interval
        numbers = each.second, each.difference, interval.low, interval.high, each.probability, result.seconds
        found.append(Row(name, *numbers))
    return sorted(found, key=lambda row: -row.difference)


def table(found: list[Row]) -> str:
    """As Markdown."""
    lines = ["| setting | score | against plain, 95 % | better with | seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.setting} | {row.score:.4f} | {row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f}) "
        f"| {row.probability:.0%} | {row.seconds:.0f} |"
        for row in found
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, help="JSON of the table")
    options = parser.parse_args()
    for name in dict.fromkeys((BASELINE, *options.only)):
        train(name, options.data, options.store, options.epochs)
        found = rows(options.store)
        print(table(found), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps([asdict(row) for row in found], indent=1))


if __name__ == "__main__":
    main()
