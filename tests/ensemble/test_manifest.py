"""The records survive JSON, and what is not one of them is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from saltray import ensemble
from saltray.config import Config, ModelConfig, to_dict
from saltray.ensemble.manifest import EnsembleManifest, FoldResult, Member, provenance
from saltray.errors import EnsembleError, IntegrityError

RESULT = FoldResult(
    fold=3,
    tiles=800,
    score=0.8125,
    iou=0.75,
    dice=6 / 7,
    epochs=60,
    seconds=123.5,
    started=1.0e9,
    finished=1.0e9 + 200,
    weights_sha256="a" * 64,
    oof_sha256="b" * 64,
)
MANIFEST = EnsembleManifest(
    name="r1",
    version="v1",
    members=tuple(Member(fold=k, key=f"fold-{k}.safetensors", sha256=f"{k}" * 64, score=k / 3) for k in range(5)),
    height=101,
    width=101,
    threshold=0.46,
    score=0.1 + 0.2,
    score_at_threshold=0.75,
    floor=0.39,
    run="r1",
    dataset="d" * 64,
    config=to_dict(Config(data="tiles", model=ModelConfig(weights="IMAGENET1K_V1"))),
    provenance={"python": "3.11.9", "commit": None},
)


def test_a_manifest_survives_json() -> None:
    assert EnsembleManifest.from_json(json.loads(json.dumps(MANIFEST.to_json()))) == MANIFEST


def test_a_fold_result_survives_json() -> None:
    assert FoldResult.from_json(json.loads(json.dumps(asdict(RESULT)))) == RESULT


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_another_format_is_refused(number: object) -> None:
    with pytest.raises(EnsembleError, match=rf"format {number!r}, this saltray reads 1; update saltray"):
        EnsembleManifest.from_json(MANIFEST.to_json() | {"format": number})


def test_what_is_no_manifest_is_refused() -> None:
    whole = MANIFEST.to_json()
    without = [{key: value for key, value in whole.items() if key != name} for name in ("members", "threshold")]
    strange = [whole | {"colour": "red"}, whole | {"members": [{"fold": 0}]}, whole | {"members": 5}]
    for record in without + strange:
        with pytest.raises(EnsembleError, match="not an ensemble manifest") as caught:
            EnsembleManifest.from_json(record)
        assert "\n" not in str(caught.value)
    with pytest.raises(EnsembleError, match="format None"):
        EnsembleManifest.from_json({})
    with pytest.raises(EnsembleError, match="no JSON object"):
        EnsembleManifest.from_json(json.loads("[1]"))


def test_what_is_no_fold_result_is_refused() -> None:
    record = asdict(RESULT)
    for strange in (record | {"colour": "red"}, {"fold": 0}):
        with pytest.raises(IntegrityError, match=r"not a fold's result.*train it again"):
            FoldResult.from_json(strange)


def test_provenance_is_plain_json_with_the_versions_in_use() -> None:
    import torch

    record = provenance()
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] == torch.__version__.partition("+")[0] or record["torch"] == torch.__version__
    assert EnsembleManifest.from_json(replace(MANIFEST, provenance=record).to_json()).provenance == record


def test_an_image_names_the_commit_that_it_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALTRAY_COMMIT", "c0ffee")
    assert provenance()["commit"] != "c0ffee"  # this is a checkout
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(Path(ensemble.__file__).parents[2]))
    assert provenance()["commit"] == "c0ffee"
