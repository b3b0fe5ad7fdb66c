"""Results on the terminal, in numbers worked by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
from command import Saltray, check_refusal
from samples import EVALUATION, ensemble_manifest

from saltray.cli import tables
from saltray.commands.compare import Comparison
from saltray.commands.predict import Prediction
from saltray.commands.pretrain import PretrainResult
from saltray.commands.publish_run import TrainResult
from saltray.commands.range_test import RangeTestResult
from saltray.commands.train import PartialResult
from saltray.commands.tune import SearchResult
from saltray.config import Config, SearchConfig, TrainConfig, Values, choice, loguniform
from saltray.data.folds import FoldBalance
from saltray.data.pixel_range import PixelRange
from saltray.data.summary import DatasetSummary
from saltray.ensemble.manifest import Member
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.versions import EnsembleVersion
from saltray.progress import TrialState, TrialStatus
from saltray.runs.held_out import HeldOutScore
from saltray.runs.records import FoldResult
from saltray.search.spec import SearchSpec
from saltray.search.trials import Trial
from saltray.training.epoch_metrics import EpochMetrics
from saltray.training.evaluation import Interval
from saltray.training.scores import paired_difference

from .conftest import make_console, rows_of

RED = "\x1b[31m"


def test_the_split() -> None:
    console = make_console()
    balance = [FoldBalance(fold=0, tiles=12, positives=3, empty_share=0.75, coverage=0.201)]
    console.print(tables.split_table(balance))
    assert rows_of(console) == [["split"], ["fold", "tiles", "empty", "coverage"], ["0", "12", "75.0%", "20.1%"]]


def state(index: int = 7, status: TrialStatus = "finished", **values: str | float) -> TrialState:
    values = values or {"optim.lr": 0.00123456}
    return TrialState(
        name=f"trial-{index:03d}", status=status, values=values, epochs=3, length=60, score=0.71239, best_epoch=2
    )


def test_trials() -> None:
    console = make_console(terminal=True)
    bare = TrialState(name="trial-008", status="failed", values={"optim.lr": 1.0}, epochs=0, length=60)
    console.print(tables.trials_table([state(), bare], ("optim.lr",), "title"))
    assert rows_of(console) == [
        ["title"],
        ["trial", "optim.lr", "epochs", "score", "in epoch", ""],
        ["trial-007", "0.001235", "3/60", "0.7124", "2", "finished"],
        ["trial-008", "1", "0/60", "", "", "failed"],
    ]
    styled = console.export_text(styles=True)
    assert f"{RED}trial-008" in styled
    assert f"{RED}trial-007" not in styled


@pytest.mark.parametrize("width", [80, 100, 1000])
def test_nothing_is_cut_off_a_narrow_terminal(width: int) -> None:
    console = make_console(width=width, terminal=True)
    values = {"model.architecture": "ternausnet", "optim.weight_decay": 1.234e-05, "train.batch_size": 32}
    console.print(tables.trials_table([state(**values)], tuple(values), "title"))
    text = console.export_text(clear=False)
    assert max(map(len, text.splitlines())) <= width
    _, *rows = rows_of(console)
    columns = ["".join(cells).replace(" ", "") for cells in zip(*rows, strict=True)]
    heads = ("trial", *values, "epochs", "score", "inepoch", "")
    cells = ("trial-007", "ternausnet", "1.234e-05", "32", "3/60", "0.7124", "2", "finished")
    assert columns == [head + cell for head, cell in zip(heads, cells, strict=True)]


def fold_result(fold: int, score: float) -> FoldResult:
    return FoldResult(
        fold=fold,
        tiles=12 + fold,
        score=score,
        iou=0.5,
        dice=0.6,
        epochs=8,
        seconds=19.6,
        started=0.0,
        finished=1.0,
        weights_sha256="",
        oof_sha256="",
    )


SCORE = (
    "score     0.7211, 95 % interval 0.7012 to 0.7398, standard deviation over folds 0.0124; no salt at all scores "
    "0.4000"
)
CHOICE = (
    "each fold with the masks' settings chosen on the other folds; chosen on all of them, 0.7346; with none, at a "
    "probability of 0.5, 0.4383"
)


def test_a_run() -> None:
    console = make_console()
    result = TrainResult(
        run="r1",
        results=(fold_result(0, 0.3417), fold_result(1, 0.5083)),
        score=0.4383,
        postprocess=Postprocess(threshold=0.36, min_area=20),
        score_at_threshold=0.7346,
        evaluation=EVALUATION,
        baseline=0.4,
        ensemble="s3://b/ensembles/r1/v1",
        report="s3://b/runs/r1/report.html",
    )
    tables.print_train(console, result)
    assert rows_of(console) == [
        ["run r1: held-out tiles"],
        ["fold", "tiles", "score", "at 0.5", "IoU", "epochs", "seconds"],
        ["0", "12", "0.7123", "0.3417", "0.5000", "8", "20"],
        ["1", "13", "0.7299", "0.5083", "0.5000", "8", "20"],
        ["all", "25", "0.7211", "0.4383", "", "", ""],
        ["score by coverage"],
        ["label", "tiles", "score", "95 % interval"],
        ["no salt", "23", "0.9000", "0.8500 to 0.9500"],
        ["0.1 to 9.7 % salt", "37", "0.3000", "0.2000 to 0.4100"],
        ["price of choices, on CPU"],
        ["models", "mirror images", "score at 0.5", "95 % interval of their gain", "ms a tile"],
        ["1", "no", "0.6912", "", "11.5"],
        ["1", "yes", "0.7012", "+0.0061 to +0.0139", "23"],
        ["2", "no", "not on training tiles", "", "23"],
        ["2", "yes", "not on training tiles", "", "46"],
        [SCORE],
        [CHOICE],
        ["masks     threshold 0.36, masks below 20 pixels emptied"],
        ["weights   weights after the last epoch, 3"],
        ["pixels    expected calibration error 0.0123, largest probability 0.59"],
        ["ensemble  s3://b/ensembles/r1/v1"],
        ["report    s3://b/runs/r1/report.html"],
    ]


def test_a_comparison() -> None:
    console = make_console(terminal=True)
    first, second = np.array([10, 0, 5]), np.array([10, 5, 6])
    rows = [paired_difference(name, first, second) for name in ("cross-fitted", "at 0.5", "fold 1", "no salt")]
    result = Comparison(
        first="r1",
        second="r2",
        folds=(1,),
        left_out=("fold 0 is left out: not finished in r2",),
        overall=rows[0],
        plain=rows[1],
        by_fold=(rows[2],),
        by_stratum=(rows[3],),
        out="s3://b/x.png",
    )
    tables.print_comparison(console, result)
    low, high = rows[0].interval.low, rows[0].interval.high
    cells = ["3", "0.5000", "0.7000", "+0.2000", f"{low:+.4f} to {high:+.4f}", f"{rows[0].probability:.1%}"]
    assert rows_of(console) == [
        ["r2 against r1, on held-out tiles"],
        ["", "tiles", "r1", "r2", "difference", "95 % interval", "better"],
        ["cross-fitted", *cells],
        ["at 0.5", *cells],
        ["fold 1", *cells],
        ["no salt", *cells],
        ["fold 0 is left out: not finished in r2"],
        ["better: share of resamples in which r2 scores higher than r1"],
        ["picture   s3://b/x.png"],
    ]


def test_a_prediction() -> None:
    console = make_console()
    score = HeldOutScore(tiles=12, score=0.71239, interval=Interval(low=0.6, high=0.8))
    tables.print_prediction(console, Prediction(12, 3, "x.csv", score))
    tables.print_prediction(console, Prediction(12, 3, "x.csv", unscored="it has no mask"))
    assert console.export_text().splitlines() == [
        "wrote x.csv: 12 tiles, 3 of them without salt",
        "score 0.7124, 95 % interval 0.6000 to 0.8000: no model was trained on these tiles",
        "wrote x.csv: 12 tiles, 3 of them without salt",
        "no score: it has no mask",
    ]


def test_a_run_of_some_folds_says_what_is_missing_and_how_to_train_it() -> None:
    console = make_console()
    partial = PartialResult(run="r1", results=(fold_result(1, 0.3417),), missing=(0, 2))
    tables.print_partial(console, partial, "saltray train --data d")
    assert rows_of(console) == [
        ["run r1: held-out tiles"],
        ["fold", "tiles", "score", "IoU", "epochs", "seconds"],
        ["1", "13", "0.3417", "0.5000", "8", "20"],
        ["not published: folds 0, 2 missing; to finish the run:  saltray train --data d"],
    ]


def test_a_pretraining_says_how_to_use_its_weights() -> None:
    console = make_console()
    uri = "s3://b/pretrained/p1/model.safetensors"
    result = PretrainResult(name="p1", weights=uri, sha256="d" * 64, tiles=24, epochs=8, loss=0.12345, seconds=19.6)
    tables.print_pretrain(console, result)
    assert rows_of(console) == [
        ["pretraining p1: 24 images, 8 epochs in 20 s; mean error of the hidden pixels 0.1235"],
        [f"weights   {uri}"],
        [f"use them  saltray train ... --model.weights {uri}"],
    ]


def trial(index: int, values: Values, *scores: float, status: TrialStatus, reason: str | None = None) -> Trial:
    epochs = tuple(
        EpochMetrics(at, 1.0, 1e-3, 1.0, 100.0, score=score, iou=0.5, dice=0.5, valid_loss=0.5)
        for at, score in enumerate(scores, start=1)
    )
    return Trial(index=index, values=values, status=status, epochs=epochs, reason=reason)


def search_result(rate: float) -> SearchResult:
    settings = SearchConfig(trials=3, space={"optim.lr": loguniform(1e-5, 1e-2), "train.batch_size": choice([16, 32])})
    config = Config(data="d", train=TrainConfig(epochs=4))
    best = trial(1, {"optim.lr": rate, "train.batch_size": 32}, 0.6, 0.8, 0.7, 0.75, status="finished")
    trials = (
        trial(0, {"optim.lr": 1e-3, "train.batch_size": 16}, 0.4, 0.5, status="stopped"),
        best,
        trial(2, {"optim.lr": 9e-3, "train.batch_size": 16}, 0.9, status="diverged", reason="the loss became [NaN]"),
    )
    spec = SearchSpec.create(config, settings)
    return SearchResult(name="s1", spec=spec, best=best, trials=trials, best_config=config, uri="s/searches/s1")


def test_a_search_from_the_best_trial_to_the_worst() -> None:
    console = make_console(terminal=True)
    tables.print_search(console, search_result(1e-4))
    assert rows_of(console) == [
        ["trial-002 diverged: the loss became [NaN]"],
        ["search s1: best validation score"],
        ["trial", "optim.lr", "train.batch_size", "epochs", "score", "in epoch", ""],
        ["trial-001", "0.0001", "32", "4/4", "0.8000", "2", "finished"],
        ["trial-000", "0.001", "16", "2/4", "0.5000", "2", "stopped"],
        ["trial-002", "0.009", "16", "1/4", "", "", "diverged"],
        ["7 epochs were run, 58% of the 12 of all trials to their end"],
        ["best      trial-001: optim.lr 0.0001  train.batch_size 32"],
        ["results   s/searches/s1 (trials.parquet, best.json, search.png, tensorboard/)"],
        ["use it    saltray train ... --from-search searches/s1"],
    ]
    assert f"{RED}trial-002 diverged" in console.export_text(styles=True)


@pytest.mark.parametrize(("rate", "end"), [(1.1e-5, "lower"), (9.9e-3, "upper"), (1e-3, None)])
def test_the_best_value_at_an_end_of_its_range(rate: float, end: str | None) -> None:
    console = make_console()
    tables.print_search(console, search_result(rate))
    hints = [line for line in console.export_text().splitlines() if "wider range" in line]
    expected = f"optim.lr {rate:g} lies at the {end} end of log:1e-05:0.01; a wider range may be better"
    assert hints == ([] if end is None else [expected])


@pytest.mark.parametrize(
    ("suggestion", "lines"),
    [
        (
            3e-3,
            [
                "suggested learning rate: 0.003; to refine it, search around it:",
                "--search.space optim.lr=log:0.0003:0.03",
            ],
        ),
        (None, ["the loss fell at no learning rate: no suggestion; try a wider range or more steps"]),
    ],
)
def test_a_range_test(suggestion: float | None, lines: list[str]) -> None:
    console = make_console()
    rates = tuple(1e-5 * 1.2**step for step in range(50))
    result = RangeTestResult(rates=rates, losses=rates, smooth=rates, suggestion=suggestion, uri="s/searches/s1")
    tables.print_range_test(console, result)
    title, head, *rows = rows_of(console)
    assert (title, head) == (["range test"], ["learning rate", "loss", "average"])
    assert len(rows) == 25 + len(lines) + 1  # every second step
    assert rows[0] == ["1e-05", "0.0000", "0.0000"]
    assert [row[0] for row in rows[25:]] == [*lines, "results   s/searches/s1 (range-test.json, range-test.png)"]


def summary(**changed: object) -> DatasetSummary:
    counts = dict.fromkeys(("empty", "full", "vertical", "tiny", "black", "duplicate_masks", "duplicate_images"), 1)
    values = {"mean_coverage": 0.25, "median_coverage": 0.3, "pixel_mean": 0.46, "pixel_std": 0.16}
    shape = {"train_tiles": 4000, "test_tiles": 18000, "height": 101, "width": 102, "black_test": 2}
    rest = {"masks_8bit": 0, "masks_16bit": 4000, "depth_range": (50.0, 950.0), "notes": ()}
    pixels = {"pixel_range": PixelRange(bits=8, maximum=255)}
    return DatasetSummary(**counts | values | shape | rest | pixels | changed)  # type: ignore[arg-type]


def test_a_data_set() -> None:
    console = make_console()
    tables.print_summary(console, summary())
    rows = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in console.export_text().splitlines())
    assert rows["training tiles"] == "4,000"
    assert rows["test tiles"] == "18,000"
    assert rows["tile size"] == "101x102 pixels"
    assert rows["masks"] == "4,000 of 16 bits, 0 of 8 bits"
    assert rows["empty masks"] == "1 (0.03%)"
    assert rows["black images"] == "1 training, 2 test"
    assert rows["median coverage"] == "0.3000 of those with salt"
    assert rows["depth"] == "50 to 950, training"
    assert len(rows) == 15


def test_a_data_set_without_salt_or_depths() -> None:
    console = make_console()
    tables.print_summary(console, summary(median_coverage=None, depth_range=None))
    assert "no salt" in console.export_text(clear=False)
    assert "depth" not in console.export_text()


def test_a_data_set_that_is_read_in_another_way() -> None:
    console = make_console()
    tables.print_summary(console, summary(notes=("one", "two"), pixel_range=PixelRange(bits=16, maximum=4095)))
    text = console.export_text()
    assert text.endswith("note: one\nnote: two\n")
    assert "(of values / 4095)" in text


# Ensembles


def test_an_ensemble_of_several_snapshots() -> None:
    console = make_console()
    key, digest = "fold-0.safetensors", "d" * 64
    members = [Member(fold=at // 2, snapshot=4 + at % 2, key=key, sha256=digest, score=0.5) for at in range(10)]
    versions = [
        EnsembleVersion("r1", "v1", ensemble_manifest()),
        EnsembleVersion("r1", "v2", ensemble_manifest(members=tuple(members))),
    ]
    tables.print_ensembles(console, versions)
    assert [row[2] for row in rows_of(console)] == ["folds", "1", "5 x 2"]


def test_an_ensemble_that_does_not_exist(saltray: Saltray, data: Path, ensemble: str) -> None:
    elsewhere = "saltray ensemble list"
    for uri, remedy in (
        ("store/ensembles/none", elsewhere),
        (f"{ensemble}/v2", f"did you mean {ensemble}?"),
        ("nowhere", elsewhere),
    ):
        for verb in ("show", "verify"):
            check_refusal(saltray("ensemble", verb, uri), uri, remedy)
        check_refusal(saltray("predict", "--ensemble", uri, "--data", data), uri, remedy)
    for verb in ("list", "show", "verify"):
        check_refusal(saltray("ensemble", verb, "gs://bucket/ensembles/e"), "gs://")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "members": [7]}'])
def test_a_corrupted_manifest(saltray: Saltray, ensemble: str, text: str) -> None:
    Path(ensemble, "v1/manifest.json").write_text(text)
    for verb in ("show", "verify"):
        check_refusal(saltray("ensemble", verb, ensemble), "manifest")
    listed = saltray("ensemble", "list", "store").out
    assert "incomplete" not in listed
    assert listed.splitlines()[-1].startswith(f"corrupted: {ensemble}/v1/manifest.json: ")


def test_a_member_that_is_missing(saltray: Saltray, ensemble: str) -> None:
    answer = saltray("ensemble", "verify", ensemble)
    check_refusal(answer, "1 member of", "is corrupted or missing: fold-0.safetensors", "publish it again")
    assert answer.out.startswith("fold-0.safetensors  ")
    shown = saltray("ensemble", "list", "store")
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"e +│ v1 +│ 1 +│ +│ 0\.7000 │ threshold 0\.50", shown.out)
    assert "0.7000" in saltray("ensemble", "show", ensemble).out


def test_an_empty_store_says_what_to_do(saltray: Saltray) -> None:
    answer = saltray("ensemble", "list", "[bold]nowhere")
    assert answer == (0, "no ensemble in [bold]nowhere yet; `saltray train` publishes one\n", "")
