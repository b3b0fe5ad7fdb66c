"""Every object of a store, damaged in every way, through all that reads it: read, or refused in one line."""

import hashlib
import io
import json
import struct
import tomllib
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import yaml
from fuzz.conftest import Watch, examples
from fuzz.mutations import NUMBERS, TEXTS, VALUES, Draw, damaged_bytes, damaged_json, damaged_lines, damaged_value
from fuzz.store import DATA, EPOCHS, FOLDS, config_of, make_store, spec_of, state_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from samples import EVALUATION

from saltray.cli.status import print_run, print_runs
from saltray.cli.tables import print_ensembles
from saltray.commands.load_config import load_config, load_search_config
from saltray.commands.plan import plan
from saltray.config import PretrainConfig
from saltray.data.all_images import load_all_images
from saltray.data.packing import dataset_size, load_tiles, open_packed
from saltray.distributed.checkpoints import newest
from saltray.distributed.cluster_file import cluster_nodes
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import provenance
from saltray.ensemble.versions import list_ensembles
from saltray.errors import SaltrayError
from saltray.models.build import build_model
from saltray.models.weights import load_weights
from saltray.report.page import FoldRow, RunReport, render_run
from saltray.report.search_charts import RangeTestCurve, SearchedTrial, range_test_chart, trial_curves
from saltray.runs.history import epochs_of, read_history
from saltray.runs.initial_weights import check_unseen, read_initial_weights
from saltray.runs.out_of_fold import open_out_of_fold
from saltray.runs.pretraining import create_pretraining, pretraining_result
from saltray.runs.run import create_run, fold_result
from saltray.runs.status import run_status, run_summaries
from saltray.search.results import read_range_test, trials_frame, with_best_values, write_table
from saltray.search.spec import SearchSpec
from saltray.search.trials import check_values, create_search, load_trials, read_epochs
from saltray.storage.base import Store
from saltray.storage.lock import owner_of

# Readers


def status(root: Store) -> None:
    console = Console(file=io.StringIO())
    print_runs(console, run_summaries(root))
    print_run(console, run_status(root, "r1"))


def plan_like(root: Store) -> None:
    plan(config_of(root), like="r1")


def resumed_run(root: Store) -> None:
    tiles = open_packed(DATA, root)
    home, config = root.sub("runs/r1"), config_of(root)
    fold_of = np.arange(len(tiles)) % FOLDS
    options: dict[str, Any] = {"tiles": tiles.index, "fold_of": fold_of, "dataset": tiles.manifest}
    create_run(home, config, initial_weights=None, search_provenance=None, **options)
    results = [result for fold in range(FOLDS) if (result := fold_result(home, fold)) is not None]
    with open_out_of_fold(home, results, tiles, fold_of) as predictions:
        for part in predictions.parts():
            assert part.probabilities.max() <= 1
        predictions.some([0, len(tiles) - 1])


def report(root: Store) -> None:
    home = root.sub("runs/r1")
    results = [result for fold in range(FOLDS) if (result := fold_result(home, fold)) is not None]
    same = ("fold", "score", "iou", "dice", "epochs", "seconds", "started", "finished")
    rows = [FoldRow(**{name: getattr(row, name) for name in same}, cross_fitted=row.score) for row in results]
    run = RunReport(
        run="r1",
        folds=rows,
        balance=(),
        coverage={},
        history={fold: epochs_of(read_history(home.sub(f"fold-{fold}"))) for fold in range(FOLDS)},
        threshold_curve=[(0.44, 0.7), (0.5, 0.6)],
        threshold=0.44,
        postprocess="threshold 0.44",
        baseline=0.4,
        score=0.6,
        score_at_threshold=0.7,
        evaluation=EVALUATION,
        examples=(),
        search=None,
        ensemble="e",
        uri="r",
        config=config_of(root),
        versions=provenance(),
    )
    assert len(render_run(run)) < 2**20


fresh_state = cache(state_of)


def resumed_fold(root: Store) -> None:
    state = fresh_state(root)
    found, notes = newest(root.sub("runs/r1/fold-0"), lambda states: state.misfit(states[0]) if states else "empty")
    assert not any("\n" in note for note in notes)
    if found is not None:
        state.load_state_dict(found.states[0])


def lock(root: Store) -> None:
    if (owner := owner_of(root.sub("runs/r1"))) is not None:
        assert isinstance(owner.is_alive(), bool)
        assert str(owner)


def search(root: Store) -> None:
    home, spec = root.sub("searches/s1"), spec_of(root)
    create_search(home, spec, load_tiles(DATA, root)[1], None)
    home.delete("trial-002/result.json")  # of the trial that had run all epochs when its driver died
    trials = load_trials(home, EPOCHS)
    check_values(home, trials, spec.settings.space)
    trials_frame(trials)
    write_table(home, trials)


def search_charts(root: Store) -> None:
    home = root.sub("searches/s1")
    (epochs,) = read_epochs(home, ["trial-000"])
    trial = SearchedTrial(name="trial-000", status="finished", values={"optim.lr": 0.1}, score=0.5, epochs=epochs)
    trial_curves([trial], "trial-000")
    test = read_range_test(home)
    assert test is not None
    range_test_chart(RangeTestCurve(test.rates, test.losses, test.smooth, test.suggestion))


def best_values(root: Store) -> None:
    with_best_values(config_of(root), "searches/s1")


def ensemble(root: Store) -> None:
    uri = f"{root.uri}/ensembles/r1"
    print_ensembles(Console(file=io.StringIO()), list_ensembles(root))
    assert Ensemble.card(uri)
    Ensemble.verify(uri)
    Ensemble.load(uri).predict(np.zeros((1, 101, 101), np.uint8))


def fine_tuned(root: Store) -> None:
    config = config_of(root)
    # The model of fold 0 alone has seen the tiles of the others, which are held out by none here.
    for weights, folds in ((f"{root.uri}/ensembles/r1", FOLDS), (f"{root.uri}/runs/r1/fold-0/model.safetensors", 1)):
        initial = read_initial_weights(replace(config, model=replace(config.model, weights=weights)))
        assert initial is not None
        tiles = open_packed(DATA, root)
        fold_of = np.arange(len(tiles)) % FOLDS
        fold_of[fold_of >= folds] = FOLDS
        others = replace(tiles.index, ids=tuple(f"x{tile}" for tile in tiles.ids))
        for each in (others, tiles.index):
            check_unseen(initial.provenance, each, fold_of, tiles.manifest)


def pretraining(root: Store) -> None:
    home = root.sub("pretrained/p1")
    pretraining_result(home)
    create_pretraining(home, config_of(root), PretrainConfig(), load_all_images(DATA, root), None)


def tiles(root: Store) -> None:
    dataset_size(DATA, root)
    load_tiles(DATA, root)


def initial_weights(root: Store) -> None:
    for path in Path(root.uri, "files").glob("weights.*"):
        load_weights(build_model(config_of(root).model), str(path))


def settings_file(root: Store) -> None:
    for path in map(str, Path(root.uri, "files").glob("settings.*")):
        config = load_config(path)
        SearchSpec.create(config, load_search_config(path))


def cluster_file(root: Store) -> None:
    cluster_nodes(Path(root.uri, "files/cluster.yaml"))


# Damage to what is no JSON


@st.composite
def damaged_state(draw: Draw, data: bytes) -> bytes:
    """A file of `torch.save`: another content, another pickle, or other bytes."""
    buffer = io.BytesIO()
    match draw(st.sampled_from(["content", "content", "pickle", "compressed", "bytes"])):
        case "content":
            content = torch.load(io.BytesIO(data), weights_only=True)
            torch.save(draw(damaged_value(content, VALUES | tensors())), buffer)
        case "pickle":
            with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
                for name in old.namelist():
                    part = old.read(name)
                    new.writestr(name, draw(damaged_bytes(part)) if name.endswith("data.pkl") else part)
        case "compressed":
            with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
                for name in old.namelist():
                    more = 2**24 if name.endswith("data.pkl") else 0
                    new.writestr(name, old.read(name) + bytes(draw(st.sampled_from([0, more]))))
        case _:
            return draw(damaged_bytes(data))
    return buffer.getvalue()


def tensors() -> st.SearchStrategy[torch.Tensor]:
    kinds = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
    shapes = st.lists(st.integers(0, 3), max_size=4)
    fills = st.sampled_from([0.0, 1.0, float("nan"), float("inf")])
    return st.builds(lambda kind, shape, fill: torch.full(shape, fill).to(kind), kinds, shapes, fills)


@st.composite
def damaged_safetensors(draw: Draw, data: bytes) -> bytes:
    """Other tensors, another header, or other bytes."""
    match draw(st.sampled_from(["tensors", "header", "header", "length", "bytes"])):
        case "tensors":
            content = safetensors.torch.load(data)
            kept = draw(damaged_value(content, tensors()))
            return safetensors.torch.save(kept if isinstance(kept, dict) else {"weight": kept})
        case "header":
            (length,) = struct.unpack("<Q", data[:8])
            header = draw(damaged_json(data[8 : 8 + length]))
            return struct.pack("<Q", len(header)) + header + data[8 + length :]
        case "length":
            return struct.pack("<Q", draw(st.integers(0, 2**64 - 1))) + data[8:]
        case _:
            return draw(damaged_bytes(data))


@st.composite
def damaged_table(draw: Draw, data: bytes) -> bytes:
    """Other columns, types, numbers of rows and values, or other bytes."""
    if draw(st.booleans()):
        return draw(damaged_bytes(data))
    table = pq.read_table(io.BytesIO(data))
    columns = {name: table[name].to_pylist() for name in table.column_names}
    name = draw(st.sampled_from(sorted(columns)))
    values = draw(st.sampled_from([NUMBERS.filter(lambda number: abs(number) < 2**53), TEXTS, st.binary(), st.none()]))
    match draw(st.sampled_from(["one", "all", "rename", "remove", "row", "repeat"])):
        case "one":
            columns[name][0] = draw(
                st.binary(max_size=40) if isinstance(columns[name][0], bytes) else TEXTS | st.none()
            )
        case "all":
            columns[name] = [draw(values)] * len(columns[name])
        case "rename":
            columns[draw(TEXTS)] = columns.pop(name)
        case "remove":
            del columns[name]
        case "row":
            columns = {name: column[:-1] for name, column in columns.items()}
        case "repeat":
            times = draw(st.sampled_from([2, 5000]))
            columns = {name: column * times for name, column in columns.items()}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


@st.composite
def damaged_yaml(draw: Draw, data: bytes) -> bytes:
    """Other values, other bytes, or aliases of aliases."""
    match draw(st.sampled_from(["values", "values", "bytes", "aliases", "merges", "deep"])):
        case "values":
            value = draw(damaged_value(yaml.safe_load(data)))
            return yaml.safe_dump(value, allow_unicode=True).encode(errors="replace")
        case "aliases":
            width, depth = draw(st.integers(1, 20)), draw(st.integers(1, 40))
            lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth))]
        case "merges":
            width, depth = draw(st.integers(1, 20)), draw(st.integers(1, 40))
            lines = ["a0: &a0 {x: 1}"]
            lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, depth)]
        case "deep":
            mark = draw(st.sampled_from(["[", "{a: ", "- ", "&a [*a, "]))
            lines = ["a: " + mark * draw(st.sampled_from([50, 5000]))]
        case _:
            return draw(damaged_bytes(data))
    return data + b"\n" + "\n".join(lines).encode()


@st.composite
def damaged_toml(draw: Draw, data: bytes) -> bytes:
    """Other values, other bytes, or names of very many parts."""
    kind = draw(st.sampled_from(["values", "values", "values", "bytes", "names", "deep"]))
    if kind == "bytes":
        return draw(damaged_bytes(data))
    if kind == "names":
        return data + b"a." * draw(st.sampled_from([10, 300, 100_000])) + b"a = 1\n"
    if kind == "deep":
        return b"data = " + draw(st.sampled_from([b"[", b"{a = "])) * draw(st.sampled_from([100, 10_000]))
    return toml_text(draw(damaged_value(tomllib.loads(data.decode())))).encode(errors="replace")


def toml_text(value: Any) -> str:
    if not isinstance(value, dict):
        return inline(value)
    tables = {name: below for name, below in value.items() if isinstance(below, dict)}
    lines = [f"{json.dumps(name)} = {inline(below)}" for name, below in value.items() if name not in tables]
    for name, table in tables.items():
        lines += [f"[{json.dumps(name)}]"]
        lines += [f"{json.dumps(key)} = {inline(below)}" for key, below in table.items() if below is not None]
    return "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


# What is damaged, how, and who reads it


@dataclass(frozen=True)
class Case:
    key: str
    damaged: Callable[[bytes], st.SearchStrategy[bytes]]
    readers: tuple[Callable[[Store], None], ...]
    seal: str | None = None
    """The record with the digest of the object, which the damaged one gets: it is as if it had been written so."""
    count: int = 30
    """Inputs in CI; fewer where a network is built for each."""


RUN, SEARCH, VERSION = "runs/r1", "searches/s1", "ensembles/r1/v1"
CHECKPOINT = f"{RUN}/fold-0/checkpoints/epoch-00002"
CASES = [
    Case(f"{RUN}/manifest.json", damaged_json, (status, plan_like, resumed_run)),
    Case(f"{RUN}/folds.json", damaged_json, (plan_like, fine_tuned), count=20),
    Case(f"{RUN}/fold-0/history.jsonl", damaged_lines, (status, plan_like, report), count=60),
    Case(f"{RUN}/fold-0/result.json", damaged_json, (status, resumed_run, report)),
    Case(f"{RUN}/fold-0/oof.parquet", damaged_table, (resumed_run,), f"{RUN}/fold-0/result.json"),
    Case(f"{RUN}/lock/000001.json", damaged_json, (lock, status), count=60),
    Case(f"{CHECKPOINT}/manifest.json", damaged_json, (resumed_fold, status)),
    Case(f"{CHECKPOINT}/state.pt", damaged_state, (resumed_fold,), f"{CHECKPOINT}/manifest.json", count=20),
    Case(f"{VERSION}/manifest.json", damaged_json, (ensemble, status, fine_tuned), count=20),
    Case(
        f"{VERSION}/fold-0.safetensors",
        damaged_safetensors,
        (ensemble, fine_tuned),
        f"{VERSION}/manifest.json",
        count=20,
    ),
    Case("pretrained/p1/manifest.json", damaged_json, (pretraining,)),
    Case("pretrained/p1/result.json", damaged_json, (pretraining,)),
    Case(f"{SEARCH}/manifest.json", damaged_json, (search,)),
    Case(f"{SEARCH}/trial-000/trial.json", damaged_json, (search,)),
    Case(f"{SEARCH}/trial-000/result.json", damaged_json, (search, search_charts)),
    Case(f"{SEARCH}/range-test.json", damaged_json, (search_charts,)),
    Case(f"{SEARCH}/trial-001/trial.json", damaged_json, (search,)),
    Case(f"{SEARCH}/trial-001/history.jsonl", damaged_lines, (search,)),
    Case(f"{SEARCH}/trial-001/checkpoints/epoch-00002/manifest.json", damaged_json, (search,)),
    Case(f"{SEARCH}/trial-002/history.jsonl", damaged_lines, (search,)),
    Case(f"{SEARCH}/best.json", damaged_json, (best_values,), count=60),
    Case(f"{DATA}/manifest.json", damaged_json, (tiles, plan_like)),
    Case(f"{DATA}/part-00000.parquet", damaged_table, (tiles,), f"{DATA}/manifest.json"),
    Case("files/weights.safetensors", damaged_safetensors, (initial_weights,), count=20),
    Case("files/weights.pt", damaged_state, (initial_weights,), count=20),
    Case("files/settings.json", damaged_json, (settings_file,), count=60),
    Case("files/settings.toml", damaged_toml, (settings_file,), count=60),
    Case("files/cluster.yaml", damaged_yaml, (cluster_file,), count=80),
]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The store, and beside its objects the files that a user brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = make_store(tmp_path_factory.mktemp("fuzz"))
    settings = {
        "data": "tiles",
        "run": "r2",
        "train": {"epochs": 3, "input-size": 128},
        "optim": {"lr": 0.001, "optimizer": "adamw"},
        "workers-per-fold": 1,
        "search": {"trials": 3, "folds": [0], "space": {"optim.lr": "log:1e-5:1e-2", "train.batch_size": [4, 8]}},
    }
    weights = build_model(config_of(store).model).state_dict()
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    store.put("files/weights.pt", buffer.getvalue())
    store.put("files/weights.safetensors", safetensors.torch.save(weights))
    store.put("files/settings.json", json.dumps(settings).encode())
    store.put("files/settings.toml", toml_text(settings).encode())
    store.put("files/cluster.yaml", Path(__file__).parents[2].joinpath("cluster.yaml").read_bytes())
    yield store
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_damage_is_refused_in_one_line(case: Case, root: Store, watch: Watch) -> None:
    path = Path(root.uri, case.key)
    data = path.read_bytes()
    record = Path(root.uri, case.seal) if case.seal else None
    sealed = record.read_text() if record else ""
    digest = hashlib.sha256(data).hexdigest()

    @examples(case.count)
    @given(damaged=case.damaged(data))
    def check(damaged: bytes) -> None:
        path.write_bytes(damaged)
        if record is not None:
            assert digest in sealed
            record.write_text(sealed.replace(digest, hashlib.sha256(damaged).hexdigest()))
        with watch():
            for read in case.readers:
                message = refusal(read, root)
                assert "\n" not in message
                assert len(message) < 2000

    try:
        check()
    finally:
        path.write_bytes(data)
        if record is not None:
            record.write_text(sealed)


def refusal(read: Callable[[Store], None], root: Store) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(root)
    except SaltrayError as error:
        return str(error)
    return ""


def test_what_is_not_damaged_is_read(root: Store, watch: Watch) -> None:
    for read in {read for case in CASES for read in case.readers}:
        with watch():
            read(root)
