"""The page of a run, of its tiles or of a store, from what is in the store alone."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from samples import dataset, metrics

import saltray
from saltray.commands.report import MOST_TILES
from saltray.config import Config, SearchConfig, TrainConfig, loguniform
from saltray.data.packing import packed_tiles
from saltray.ensemble.manifest import SearchProvenance
from saltray.errors import ConfigError, EnsembleError, IntegrityError, NotFoundError, SaltrayError
from saltray.records import to_record
from saltray.runs.records import RunManifest
from saltray.search.results import RangeTestRecord, write_best, write_table
from saltray.search.spec import SearchSpec
from saltray.search.trials import create_search, create_trial, finish_trial
from saltray.storage.base import Store
from saltray.storage.uri import open_store


@pytest.fixture
def copy(written_run: Store, tmp_path: Path) -> Store:
    """A copy of the store, to be changed."""
    shutil.copytree(written_run.uri, tmp_path / "copy")
    return open_store(str(tmp_path / "copy"))


def ids_of(root: Store) -> tuple[str, ...]:
    record = root.get_record("runs/r1/manifest.json", RunManifest)
    found = packed_tiles(record.dataset, record.config.data, root)
    assert found is not None
    return found.ids


@pytest.mark.parametrize("name", ["runs/r1", "runs/r1/", "ensembles/r1", "ensembles/r1/v1", "ensembles/r1/latest"])
def test_the_page_is_made_again(written_run: Store, tmp_path: Path, name: str) -> None:
    out = tmp_path / "new/x.html"
    done = saltray.write_report(f"{written_run.uri}/{name}", out)
    assert (done.out, done.shows) == (str(out), "run r1")
    assert out.read_bytes() == written_run.get("runs/r1/report.html")


def test_it_goes_to_a_file_of_the_runs_name(
    written_run: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"{written_run.uri}/runs/r1"
    assert saltray.write_report(uri).out == "run-r1.html"
    assert saltray.write_report(uri, tiles=ids_of(written_run)[:1]).out == "run-r1-tiles.html"
    assert saltray.write_report(written_run.uri).out == "runs.html"
    assert {path.name for path in tmp_path.iterdir()} == {"run-r1.html", "run-r1-tiles.html", "runs.html"}


def test_the_runs_own_page_can_be_replaced_and_nothing_else_of_it(copy: Store) -> None:
    uri = f"{copy.uri}/runs/r1"
    copy.delete("runs/r1/report.html")
    saltray.write_report(uri, f"{uri}/report.html")
    assert f"{copy.uri}/ensembles/r1/v1" in copy.get("runs/r1/report.html").decode()
    with pytest.raises(ConfigError, match=r"--out .*folds\.json is in the run's own folder"):
        saltray.write_report(uri, f"{uri}/folds.json")


def test_tiles_by_their_ids(written_run: Store, tmp_path: Path) -> None:
    ids = ids_of(written_run)
    out = tmp_path / "x.html"
    done = saltray.write_report(f"{written_run.uri}/runs/r1", out, tiles=[ids[5], ids[0], ids[5]])
    assert done.shows == "2 tiles of run r1"
    html = out.read_text(encoding="utf-8")
    assert re.findall(r"<figcaption>\s*<b>(.*?)</b>", html) == [ids[5], ids[0]]
    assert re.findall(r"<span>(fold \d)</span>", html) == ["fold 2", "fold 0"]


def test_only_the_folds_of_these_tiles_are_read(copy: Store, tmp_path: Path) -> None:
    copy.put("runs/r1/fold-1/oof.parquet", b"damaged")
    ids = ids_of(copy)
    saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "x.html", tiles=[ids[0]])
    with pytest.raises(IntegrityError, match=r"fold-1/oof\.parquet"):
        saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "y.html", tiles=[ids[1]])
    assert not (tmp_path / "y.html").exists()


def test_a_store_has_a_page_of_all_runs(copy: Store, tmp_path: Path) -> None:
    copy.put_json("runs/bad/manifest.json", {})
    out = tmp_path / "x.html"
    done = saltray.write_report(copy.uri, out)
    assert done.shows == f"1 finished and 2 other runs of {copy.uri}"
    html = out.read_text(encoding="utf-8")
    assert '<td data-label="run"><b>r1</b></td>' in html
    assert "<td><b>half</b></td><td>stopped</td><td>1 of 3</td>" in html
    assert "<td><b>bad</b></td><td>corrupted</td>" in html


def write_search(root: Store) -> None:
    """A search of two trials beside the run, whose values came from it, and a range test."""
    config = Config(data="d", train=TrainConfig(epochs=2))
    spec = SearchSpec.create(config, SearchConfig(space={"optim.lr": loguniform(1e-5, 1e-2)}, trials=2))
    home = root.sub("searches/s1")
    create_search(home, spec, dataset(), None)
    trials = []
    for index, status in enumerate(("stopped", "finished")):
        epochs = tuple(metrics(number, 0.2 * number + 0.1 * index) for number in range(1, index + 2))
        trial = create_trial(home, index, {"optim.lr": 10.0 ** -(index + 2)})
        trials.append(replace(trial, status=status, epochs=epochs))  # type: ignore[arg-type]
        finish_trial(home, trials[-1])
    write_table(home, trials)
    found = write_best(home, spec, trials[1], 2)
    test = RangeTestRecord(rates=(1e-4, 1e-2), losses=(1.0, 0.5), smooth=(1.0, 0.6), suggestion=1e-3, config=config)
    home.put_record("range-test.json", test)
    source = SearchProvenance(
        uri=home.uri, search="s1", trial=found.trial, values=found.values, score=found.score, trials=2
    )
    key = "ensembles/r1/v1/manifest.json"
    root.put_json(key, root.get_json(key) | {"origin": to_record(source)})


def test_a_search_is_shown_with_its_trials_and_its_range_test(copy: Store, tmp_path: Path) -> None:
    write_search(copy)

    def page() -> str:
        saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "x.html")
        return (tmp_path / "x.html").read_text(encoding="utf-8")

    whole = page()
    assert "<title>trial-000, stopped after epoch 1: optim.lr 0.01; best score 0.2000</title>" in whole
    assert "<title>trial-001, finished after epoch 2: optim.lr 0.001; best score 0.5000</title>" in whole
    assert "suggested: 0.001" in whole
    copy.put("searches/s1/trial-000/result.json", b"{")
    copy.put("searches/s1/range-test.json", b"{")
    damaged = page()
    for what, key in (
        ("Its trials cannot be shown by epoch", "trial-000/result.json"),
        ("The range test beside it cannot be shown", "range-test.json"),
    ):
        assert f"{what}: {copy.uri}/searches/s1/{key}: not JSON" in damaged
    assert "trial-000, stopped: 0.01, score 0.2000" in damaged


@pytest.mark.parametrize("gone", [True, False])
def test_a_search_that_is_gone_does_not_matter(copy: Store, tmp_path: Path, gone: bool) -> None:
    found = SearchProvenance(
        uri="gs://x" if gone else f"{copy.uri}/searches/s1",
        search="s1",
        trial="trial-001",
        values={"optim.lr": 0.001},
        score=0.6,
        trials=4,
    )
    key = "ensembles/r1/v1/manifest.json"
    copy.put_json(key, copy.get_json(key) | {"origin": to_record(found)})
    saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "x.html")
    html = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "trial-001, with a validation score of 0.6000, of 4 trials" in html
    assert f"Its trials cannot be shown: {'&#39;gs://&#39; is unsupported' if gone else copy.uri}" in html


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("runs/r2", NotFoundError, "no run r2 in .*; there are half, r1"),
        ("runs/other", NotFoundError, "no run other in .*; there are half, r1"),
        ("runs/half", ConfigError, "has finished 1 of 3 folds, .* `saltray train` with the same settings finishes it"),
        ("ensembles/r2", EnsembleError, "no complete ensemble at"),
        ("ensembles/r1/v7", EnsembleError, "no complete ensemble at"),
        (
            "datasets",
            NotFoundError,
            "there is no run in .*datasets; name STORE/runs/NAME, STORE/ensembles/NAME or a STORE with",
        ),
    ],
)
def test_what_has_no_page(written_run: Store, tmp_path: Path, name: str, error: type[SaltrayError], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        saltray.write_report(f"{written_run.uri}/{name}", tmp_path / "x.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.html").exists()


def test_tiles_that_there_are_not(written_run: Store, tmp_path: Path) -> None:
    uri, (first, *_) = f"{written_run.uri}/runs/r1", ids_of(written_run)
    for tiles, told in (
        ([f"{first}x"], f"run r1 has no tile {first}x; did you mean {first}?"),
        (["\n"], f'run r1 has no tile "\\n"; its ids are like {first}'),
        ([str(number) for number in range(MOST_TILES + 1)], "101 tiles are too many for a page; name 100 or fewer"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            saltray.write_report(uri, tmp_path / "x.html", tiles=tiles)
    with pytest.raises(ConfigError, match="tiles are of one run, and .* is a whole store; name STORE/runs/NAME"):
        saltray.write_report(written_run.uri, tmp_path / "x.html", tiles=[first])
    assert not (tmp_path / "x.html").exists()


def test_a_run_by_its_name_alone(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(copy.uri)
    monkeypatch.chdir(folder.rename(folder.with_name("saltray-store")).parent)
    with pytest.raises(NotFoundError, match=r"there is no run in r1; did you mean saltray-store/runs/r1\?"):
        saltray.write_report("r1")
    with pytest.raises(NotFoundError, match=r"there is no run in r7; name STORE/runs/NAME"):
        saltray.write_report("r7")


def test_a_run_of_another_version(copy: Store, tmp_path: Path) -> None:
    key = "runs/r1/manifest.json"
    record = copy.get_json(key)
    copy.put_json(key, record | {"new": 1})
    with pytest.raises(IntegrityError, match="new is unknown"):  # it says that this very version wrote it
        saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "x.html")
    copy.put_json(key, record | {"new": 1, "provenance": record["provenance"] | {"saltray": "0.0.7", "commit": None}})
    with pytest.raises(ConfigError, match=r"made by another version of saltray, 0\.0\.7, .*its own page is .*report"):
        saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "x.html")


def test_models_that_the_run_no_longer_has(copy: Store, tmp_path: Path) -> None:
    key = "ensembles/r1/{}/manifest.json"
    record = copy.get_json(key.format("v1"))
    copy.put_json(key.format("v2"), record | {"version": "v2"})
    members = [member | {"sha256": "a" * 64} for member in record["members"]]
    copy.put_json(key.format("v1"), record | {"members": members})
    with pytest.raises(ConfigError, match=r"version v1 has models that run r1 no longer has.*name .*ensembles/r1/v2"):
        saltray.write_report(f"{copy.uri}/ensembles/r1/v1", tmp_path / "x.html")


def test_a_run_that_is_not_published(copy: Store, tmp_path: Path) -> None:
    copy.delete_prefix("ensembles")
    with pytest.raises(ConfigError, match="is trained, but its ensemble is not published; `saltray train`"):
        saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "x.html")


def test_tiles_that_are_gone(copy: Store, tmp_path: Path) -> None:
    copy.delete_prefix("datasets")
    with pytest.raises(ConfigError, match="are no longer packed in .*packs them again"):
        saltray.write_report(f"{copy.uri}/runs/r1", tmp_path / "x.html")


def test_a_job_of_a_cluster_keeps_no_page(written_run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    for uri in (written_run.uri, f"{written_run.uri}/runs/r1"):
        with pytest.raises(ConfigError, match=r"--out run.*\.html is in the working directory of this one job"):
            saltray.write_report(uri)
