"""Publishing is all or nothing, and publishing the same models again changes nothing."""

import dataclasses
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from samples import EVALUATION, publish_models

from saltray.config import Config, OptimConfig
from saltray.data.packed import DatasetManifest
from saltray.ensemble import publishing
from saltray.ensemble.card import model_card
from saltray.ensemble.load import Ensemble
from saltray.ensemble.manifest import EnsembleManifest, SearchProvenance, WeightsProvenance
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.publishing import FoldModel
from saltray.ensemble.versions import last_number, list_ensembles, read_manifest, resolve
from saltray.errors import EnsembleError, IntegrityError, NotFoundError
from saltray.storage.base import Store

from .conftest import Publisher, put_fold


def rescored(models: list[FoldModel], score: float) -> list[FoldModel]:
    """The same weights with another score: another set of members."""
    return [dataclasses.replace(model, score=score) for model in models]


def is_complete(store: Store, manifest: EnsembleManifest) -> bool:
    checks = Ensemble.verify(f"{store.uri}/ensembles/{manifest.name}/{manifest.version}")
    return [(check.key, check.fault) for check in checks] == [
        ("fold-0.safetensors", None),
        ("fold-1.safetensors", None),
    ]


def test_a_version_holds_members_card_and_manifest(
    store: Store, models: list[FoldModel], weights: list[bytes], publish_run: Publisher
) -> None:
    manifest = publish_run(models[::-1])  # in any order
    assert (manifest.name, manifest.version) == ("r1", "v1")
    assert [(member.fold, member.key, member.sha256, member.score) for member in manifest.members] == [
        (model.fold, f"fold-{model.fold}.safetensors", model.sha256, model.score) for model in models
    ]
    assert [entry.key for entry in store.list("ensembles")] == [
        f"ensembles/r1/v1/{name}"
        for name in ("claim.json", "fold-0.safetensors", "fold-1.safetensors", "manifest.json", "model-card.md")
    ]
    for fold, data in enumerate(weights):
        assert store.get(f"ensembles/r1/v1/fold-{fold}.safetensors") == data
    assert store.get("ensembles/r1/v1/model-card.md").decode() == model_card(manifest)
    assert read_manifest(resolve(f"{store.uri}/ensembles/r1")) == manifest
    assert is_complete(store, manifest)


def test_the_manifest_holds_what_was_given(
    store: Store, config: Config, models: list[FoldModel], dataset: DatasetManifest
) -> None:
    search = SearchProvenance(
        uri="s3://b/searches/s1", search="s1", trial="trial-003", values={"optim.lr": 1e-3}, score=0.8, trials=4
    )
    weights = WeightsProvenance(uri="s3://b/ensembles/e/v2", sha256=("e" * 64,) * 2, members=(0, 1))
    publish_models(store, config, models, dataset, search_provenance=search, weights_provenance=weights)
    manifest = read_manifest(store.sub("ensembles/r1/v1"))
    assert manifest.postprocess == Postprocess(threshold=0.44, min_area=12, blank_is_empty=True)
    assert (manifest.score, manifest.score_at_threshold, manifest.baseline) == (0.7123, 0.7321, 0.39)
    assert manifest.evaluation == EVALUATION
    assert (manifest.height, manifest.width, manifest.dataset) == (64, 48, "d" * 64)
    assert (manifest.run, manifest.config, manifest.search_provenance) == ("r1", config, search)
    assert manifest.initial_weights == weights
    assert manifest.provenance["torch"] is not None


def test_a_missing_fold_is_named_and_nothing_is_written(
    store: Store, models: list[FoldModel], publish_run: Publisher
) -> None:
    with pytest.raises(EnsembleError, match=r"run r1 lacks fold 0,.*same command again"):
        publish_run(models[1:])
    with pytest.raises(EnsembleError, match=r"lacks fold 0, 1,"):
        publish_run([])
    assert list(store.list("ensembles")) == []


def test_the_members_of_several_snapshots_are_fold_by_snapshot(
    store: Store, config: Config, models: list[FoldModel], weights: list[bytes], dataset: DatasetManifest
) -> None:
    several = dataclasses.replace(
        config,
        optim=OptimConfig(schedule="cycles", cycles=3),
        train=dataclasses.replace(config.train, snapshots=2),
    )
    # The two folds' weights stand for two snapshots, crosswise.
    parts = [
        dataclasses.replace(model, fold=fold, snapshot=2 + (fold + at) % 2)
        for at, model in enumerate(models)
        for fold in (1, 0)
    ]

    def publish_parts(parts: list[FoldModel]) -> EnsembleManifest:
        return publish_models(store, several, parts, dataset)

    with pytest.raises(EnsembleError, match=r"run r1 lacks snapshot 3 of fold 0, so it is not published"):
        publish_parts([part for part in parts if (part.fold, part.snapshot) != (0, 3)])
    assert list(store.list("ensembles")) == []
    manifest = publish_parts(parts)
    found = [(member.fold, member.snapshot, member.key) for member in manifest.members]
    assert found == [(fold, cycle, f"fold-{fold}-snapshot-{cycle}.safetensors") for fold in (0, 1) for cycle in (2, 3)]
    stored = [store.get(f"ensembles/r1/v1/{member.key}") for member in manifest.members]
    assert stored == [weights[0], weights[1], weights[1], weights[0]]
    assert all(check.fault is None for check in Ensemble.verify(f"{store.uri}/ensembles/r1"))
    card = store.get("ensembles/r1/v1/model-card.md").decode()
    assert "| fold | snapshot | score at 0.50 | sha256 |\n|---|---|---|---|\n" in card
    assert f"\n| 1 | 3 | 0.7000 | `{models[0].sha256[:12]}` |\n" in card

    images = np.random.default_rng(0).integers(0, 256, (2, 64, 48), dtype=np.uint8)
    ensemble = Ensemble.load(f"{store.uri}/ensembles/r1", device="cpu")
    singles = [Ensemble(manifest, [model], ensemble.device).predict(images) for model in ensemble.models]
    np.testing.assert_allclose(ensemble.predict(images), np.mean(singles, axis=0), atol=1e-6)
    assert len(singles) == 4
    assert publish_parts(parts) == manifest


def test_the_same_models_are_published_once(store: Store, models: list[FoldModel], publish_run: Publisher) -> None:
    first = publish_run(models)
    assert publish_run(models) == first
    assert store.folders("ensembles/r1") == ["v1"]


def test_other_models_are_the_next_version(
    store: Store, models: list[FoldModel], weights: list[bytes], publish_run: Publisher
) -> None:
    first = publish_run(models)
    store.put("runs/r1/fold-0/model.safetensors", weights[1])
    changed = [dataclasses.replace(models[0], sha256=hashlib.sha256(weights[1]).hexdigest()), models[1]]
    second = publish_run(changed)
    assert second.version == "v2"
    assert is_complete(store, first)  # a published version never changes
    assert is_complete(store, second)
    assert store.get("ensembles/r1/v1/fold-0.safetensors") == weights[0]
    assert store.get("ensembles/r1/v2/fold-0.safetensors") == weights[1]
    assert publish_run(models) == first  # the older one is found as well


def test_the_number_of_a_deleted_version_is_not_reused(
    store: Store, models: list[FoldModel], publish_run: Publisher
) -> None:
    publish_run(models)
    publish_run(rescored(models, 0.1))
    store.delete_prefix("ensembles/r1/v1")
    assert publish_run(rescored(models, 0.2)).version == "v3"


def test_concurrent_publishers_get_a_version_each(
    store: Store, models: list[FoldModel], publish_run: Publisher
) -> None:
    start = threading.Barrier(2)

    def run(score: float) -> EnsembleManifest:
        start.wait(timeout=60)
        return publish_run(rescored(models, score))

    with ThreadPoolExecutor(2) as pool:
        manifests = list(pool.map(run, (0.1, 0.2)))
    assert {manifest.version for manifest in manifests} == {"v1", "v2"}
    for manifest, score in zip(manifests, (0.1, 0.2), strict=True):
        assert is_complete(store, manifest)
        kept = read_manifest(store.sub(f"ensembles/r1/{manifest.version}"))
        assert [member.score for member in kept.members] == [score, score]


def test_many_publishers_at_once_leave_whole_versions_and_no_reader_fails(
    store: Store, weights: list[bytes], publish_run: Publisher
) -> None:
    publishers = 30 if store.is_remote else 100  # the server of the tests is slow
    small = [put_fold(store, fold, data[: 1000 + fold]) for fold, data in enumerate(weights)]
    home = f"{store.uri}/ensembles/r1"
    publish_run(rescored(small, 0.0))  # so that there is always a version to read
    start, done = threading.Barrier(publishers), threading.Event()

    def run(number: int) -> EnsembleManifest:
        start.wait(timeout=60)
        return publish_run(rescored(small, number / publishers))

    def read() -> list[int]:
        numbers = []
        while not done.is_set():
            version = resolve(home)
            manifest = read_manifest(version)
            for member in manifest.members:
                assert len(version.get(member.key, sha256=member.sha256)) == 1000 + member.fold
            assert version.get("model-card.md").startswith(f"# r1 {manifest.version}\n".encode())
            numbers.append(int(manifest.version[1:]))
        return numbers

    with ThreadPoolExecutor(publishers + 2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        published = [pool.submit(run, number) for number in range(1, publishers + 1)]
        try:
            manifests = [future.result() for future in published]
        finally:
            done.set()
        seen = [reader.result() for reader in readers]
    assert {manifest.version for manifest in manifests} == {f"v{number}" for number in range(2, publishers + 2)}
    assert len({member.score for manifest in manifests for member in manifest.members}) == publishers
    for manifest in manifests:
        version = store.sub(f"ensembles/r1/{manifest.version}")
        assert read_manifest(version) == manifest
        assert [entry.key for entry in version.list()] == [
            *("claim.json", "fold-0.safetensors", "fold-1.safetensors", "manifest.json", "model-card.md")
        ]
        for member in manifest.members:
            version.get(member.key, sha256=member.sha256)
    for numbers in seen:
        assert numbers
        assert numbers == sorted(numbers)  # the latest version never goes back
    assert [version.manifest for version in list_ensembles(store)][1:] == sorted(
        manifests, key=lambda manifest: int(manifest.version[1:])
    )


def test_numbers_that_others_claimed_since_the_listing_are_skipped(
    store: Store, models: list[FoldModel], publish_run: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("v1", "v2"):
        store.put_json(f"ensembles/r1/{version}/claim.json", {"version": version})
    outdated = [0, 1]
    monkeypatch.setattr(publishing, "last_number", lambda *where: outdated.pop(0) if outdated else last_number(*where))
    monkeypatch.setattr(publishing, "LONGEST_PAUSE_S", 0.0)
    assert publish_run(models).version == "v3"
    assert store.get_json("ensembles/r1/v3/claim.json") == {"version": "v3"}
    assert store.folders("ensembles/r1") == ["v1", "v2", "v3"]


def test_a_publisher_that_dies_leaves_an_incomplete_version(
    store: Store, models: list[FoldModel], weights: list[bytes], publish_run: Publisher
) -> None:
    complete = publish_run(models)
    store.delete("runs/r1/fold-1/model.safetensors")
    with pytest.raises(NotFoundError):  # after the claim and the first member
        publish_run(rescored(models, 0.5))
    assert [entry.key for entry in store.list("ensembles/r1/v2")] == [
        "ensembles/r1/v2/claim.json",
        "ensembles/r1/v2/fold-0.safetensors",
    ]
    assert [(version.version, version.manifest) for version in list_ensembles(store)] == [
        ("v1", complete),
        ("v2", None),
    ]
    for uri in (f"{store.uri}/ensembles/r1", f"{store.uri}/ensembles/r1/latest"):
        assert resolve(uri).uri == f"{store.uri}/ensembles/r1/v1"
    with pytest.raises(EnsembleError, match="no complete ensemble"):
        resolve(f"{store.uri}/ensembles/r1/v2")

    store.put("runs/r1/fold-1/model.safetensors", weights[1])
    assert publish_run(rescored(models, 0.5)).version == "v3"  # the number of the incomplete one is not reused


def test_weights_of_another_digest_are_not_published(
    store: Store, models: list[FoldModel], weights: list[bytes], publish_run: Publisher
) -> None:
    store.put("runs/r1/fold-1/model.safetensors", weights[0])
    with pytest.raises(IntegrityError, match=r"fold-1/model\.safetensors"):
        publish_run(models)
    assert [version.manifest for version in list_ensembles(store)] == [None]


def test_the_manifest_is_written_last(
    store: Store, models: list[FoldModel], publish_run: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_new = type(store).put_new
    before: list[set[str]] = []

    def watched(self: Store, key: str, data: bytes) -> bool:
        if key == "manifest.json":
            before.append({entry.key for entry in self.list()})
        return put_new(self, key, data)

    monkeypatch.setattr(type(store), "put_new", watched)
    publish_run(models)
    assert before == [{"claim.json", "fold-0.safetensors", "fold-1.safetensors", "model-card.md"}]


def test_a_corrupted_ensemble_of_another_name_does_not_matter(
    store: Store, models: list[FoldModel], publish_run: Publisher
) -> None:
    store.put("ensembles/other/v1/manifest.json", b"{")
    store.put_json("ensembles/newer/v1/manifest.json", {"format": 99})
    assert publish_run(models).version == "v1"


def test_an_unreadable_version_of_the_same_name_is_skipped(
    store: Store, models: list[FoldModel], publish_run: Publisher
) -> None:
    store.put("ensembles/r1/v4/manifest.json", b"{")
    assert publish_run(models).version == "v5"
