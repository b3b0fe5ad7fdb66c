"""The manifest survives JSON, under its stored keys; everything else is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from saltray import ensemble
from saltray.ensemble.manifest import EnsembleManifest, SearchProvenance, provenance
from saltray.ensemble.postprocess import Postprocess
from saltray.errors import EnsembleError
from saltray.records import to_record

SEARCH = SearchProvenance(
    uri="s3://bucket/searches/s1",
    search="s1",
    trial="trial-003",
    values={"optim.lr": 1e-3, "model.num_filters": 16, "train.sync_batchnorm": True, "optim.optimizer": "adam"},
    score=0.8125,
    trials=16,
)


@pytest.mark.parametrize("search", [None, SEARCH])
def test_a_manifest_survives_json(manifest: EnsembleManifest, search: SearchProvenance | None) -> None:
    written = replace(manifest, search_provenance=search)
    read = EnsembleManifest.from_json(json.loads(json.dumps(to_record(written))))
    assert read == written
    if read.search_provenance is not None:  # 1 and 1.0 and True are equal
        assert [type(value) for value in read.search_provenance.values.values()] == [float, int, bool, str]


def test_the_stored_keys_are_those_of_format_2(manifest: EnsembleManifest) -> None:
    record = to_record(replace(manifest, search_provenance=SEARCH))
    own = {"baseline": record.pop("floor"), "search_provenance": record.pop("origin")}
    assert own == {"baseline": 0.39, "search_provenance": asdict(SEARCH)}
    expected = asdict(replace(manifest, search_provenance=SEARCH))
    assert record | own == json.loads(json.dumps(expected))
    assert to_record(manifest)["origin"] is None


def test_a_manifest_without_the_key_of_the_search_is_read(manifest: EnsembleManifest) -> None:
    record = to_record(manifest)
    del record["origin"], record["initial_weights"]
    assert EnsembleManifest.from_json(record) == manifest


def test_a_manifest_of_format_1_has_a_threshold_and_nothing_more(manifest: EnsembleManifest) -> None:
    record = to_record(manifest) | {"format": 1, "threshold": 0.46}
    del record["postprocess"], record["evaluation"]
    plain = replace(manifest, postprocess=Postprocess(threshold=0.46), evaluation=None)
    assert EnsembleManifest.from_json(record) == plain
    assert EnsembleManifest.from_json(to_record(plain)) == plain  # as format 2


def test_a_manifest_from_before_the_parts_of_the_decoder_is_of_a_network_without_them(
    manifest: EnsembleManifest,
) -> None:
    record = to_record(manifest)
    for part in ("decoder_batchnorm", "deep_supervision"):
        del record["config"]["model"][part]
    plain = replace(manifest.config.model, decoder_batchnorm=False, deep_supervision=False)
    assert EnsembleManifest.from_json(record) == replace(manifest, config=replace(manifest.config, model=plain))


@pytest.mark.parametrize("number", [0, 3, "1", None, "\x1b[2J"])
def test_another_format_is_refused_first(manifest: EnsembleManifest, number: object) -> None:
    for record in ({"format": number}, to_record(manifest) | {"format": number}):
        with pytest.raises(
            EnsembleError, match=re.escape(f"format {json.dumps(number)}, this saltray reads 1 and 2; update saltray")
        ):
            EnsembleManifest.from_json(record)


def without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: {key: value for key, value in record.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without("members"), "members is missing"),
        (without("floor"), "floor is missing"),
        (lambda record: record | {"colour": "red"}, "colour is unknown"),
        (lambda record: record | {"members": 5}, "members is 5"),
        (lambda record: record | {"members": [{"fold": 0}]}, r"members\.0\.key is missing"),
        (without("postprocess"), "postprocess is missing"),
        (lambda record: record | {"threshold": 0.5}, "threshold is unknown"),
        (
            lambda record: {**record, "format": 1, "threshold": "0.5"},
            'postprocess.threshold is "0.5"',
        ),
        (lambda record: record | {"postprocess": {"threshold": 0.5, "min_area": 1.5}}, "postprocess.min_area is 1.5"),
        (lambda record: record | {"height": 101.5}, "height is 101.5"),
        (lambda record: record | {"provenance": {"torch": 2}}, r"provenance\.torch is 2"),
        (lambda record: record | {"origin": {"search": "s1"}}, r"origin\.uri is missing"),
        (lambda record: record | {"config": record["config"] | {"colour": "red"}}, r"config\.colour is unknown"),
        (lambda record: record | {"config": record["config"] | {"folds": {"count": 1}}}, "folds.count is 1"),
    ],
)
def test_other_records_are_refused(
    manifest: EnsembleManifest, change: Callable[[dict[str, Any]], dict[str, Any]], fault: str
) -> None:
    with pytest.raises(
        EnsembleError, match=f"not an ensemble manifest: {fault}.*; publish the ensemble again"
    ) as caught:
        EnsembleManifest.from_json(change(to_record(manifest)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("record", [[1], "text", None])
def test_other_json_is_refused(record: object) -> None:
    with pytest.raises(EnsembleError, match="not an ensemble manifest: no JSON object; publish the ensemble again"):
        EnsembleManifest.from_json(record)


def test_provenance_is_plain_json_with_the_versions_in_use(manifest: EnsembleManifest) -> None:
    import torch

    record = provenance()
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] in (torch.__version__, torch.__version__.partition("+")[0])
    assert EnsembleManifest.from_json(to_record(replace(manifest, provenance=record))).provenance == record


def test_an_image_names_the_commit_that_it_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALTRAY_COMMIT", "c0ffee")
    assert provenance()["commit"] != "c0ffee"  # this is a checkout
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(Path(ensemble.__file__).parents[2]))
    assert provenance()["commit"] == "c0ffee"
