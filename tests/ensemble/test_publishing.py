"""Publishing is all or nothing, and twice the same is once."""

import dataclasses
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from saltray.ensemble.manifest import EnsembleManifest, FoldResult
from saltray.ensemble.versions import list_ensembles, read_manifest, resolve, verify
from saltray.errors import EnsembleError, IntegrityError, NotFoundError
from saltray.storage.base import Store

from .conftest import Publisher


def rescored(results: list[FoldResult], score: float) -> list[FoldResult]:
    """The same weights with another score: another set of members."""
    return [dataclasses.replace(result, score=score) for result in results]


def is_whole(store: Store, manifest: EnsembleManifest) -> bool:
    checked = dict(verify(f"{store.uri}/ensembles/{manifest.name}/{manifest.version}"))
    return checked == {"fold-0.safetensors": None, "fold-1.safetensors": None}


def test_a_version_holds_members_card_and_manifest(
    store: Store, results: list[FoldResult], weights: list[bytes], publish_run: Publisher
) -> None:
    manifest = publish_run(results[::-1])  # in any order
    assert (manifest.name, manifest.version) == ("r1", "v1")
    assert [member.fold for member in manifest.members] == [0, 1]
    assert [entry.key for entry in store.list("ensembles")] == [
        f"ensembles/r1/v1/{name}"
        for name in ("claim.json", "fold-0.safetensors", "fold-1.safetensors", "manifest.json", "model-card.md")
    ]
    for fold, data in enumerate(weights):
        assert store.get(f"ensembles/r1/v1/fold-{fold}.safetensors") == data
    assert read_manifest(f"{store.uri}/ensembles/r1") == manifest
    assert is_whole(store, manifest)


def test_a_missing_fold_is_named_and_nothing_is_written(
    store: Store, results: list[FoldResult], publish_run: Publisher
) -> None:
    with pytest.raises(EnsembleError, match=r"run r1 lacks fold 0,.*same command again"):
        publish_run(results[1:])
    with pytest.raises(EnsembleError, match=r"lacks fold 0, 1,"):
        publish_run([])
    assert list(store.list("ensembles")) == []


def test_the_same_models_are_published_once(store: Store, results: list[FoldResult], publish_run: Publisher) -> None:
    first = publish_run(results)
    assert publish_run(results) == first
    assert store.folders("ensembles/r1") == ["v1"]


def test_other_models_are_the_next_version(
    store: Store, results: list[FoldResult], weights: list[bytes], publish_run: Publisher
) -> None:
    first = publish_run(results)
    store.put("runs/r1/fold-0/model.safetensors", weights[1])
    changed = [dataclasses.replace(results[0], weights_sha256=hashlib.sha256(weights[1]).hexdigest()), results[1]]
    second = publish_run(changed)
    assert second.version == "v2"
    assert is_whole(store, first)  # a published version never changes
    assert is_whole(store, second)
    assert store.get("ensembles/r1/v1/fold-0.safetensors") == weights[0]
    assert store.get("ensembles/r1/v2/fold-0.safetensors") == weights[1]
    assert publish_run(results) == first  # the older one is found as well


def test_the_number_of_a_deleted_version_is_not_used_again(
    store: Store, results: list[FoldResult], publish_run: Publisher
) -> None:
    publish_run(results)
    publish_run(rescored(results, 0.1))
    store.delete_prefix("ensembles/r1/v1")
    assert publish_run(rescored(results, 0.2)).version == "v3"


def test_two_publishers_at_once_get_a_version_each(
    store: Store, results: list[FoldResult], publish_run: Publisher
) -> None:
    start = threading.Barrier(2)

    def run(score: float) -> EnsembleManifest:
        start.wait()
        return publish_run(rescored(results, score))

    with ThreadPoolExecutor(2) as pool:
        manifests = list(pool.map(run, (0.1, 0.2)))
    assert {manifest.version for manifest in manifests} == {"v1", "v2"}
    for manifest, score in zip(manifests, (0.1, 0.2), strict=True):
        assert is_whole(store, manifest)
        kept = read_manifest(f"{store.uri}/ensembles/r1/{manifest.version}")
        assert [member.score for member in kept.members] == [score, score]


def test_a_publisher_that_dies_leaves_no_version(
    store: Store, results: list[FoldResult], weights: list[bytes], publish_run: Publisher
) -> None:
    whole = publish_run(results)
    store.delete("runs/r1/fold-1/model.safetensors")
    with pytest.raises(NotFoundError):  # after the claim and the first member
        publish_run(rescored(results, 0.5))
    assert [entry.key for entry in store.list("ensembles/r1/v2")] == [
        "ensembles/r1/v2/claim.json",
        "ensembles/r1/v2/fold-0.safetensors",
    ]
    assert [(version.version, version.manifest) for version in list_ensembles(store)] == [("v1", whole), ("v2", None)]
    for uri in (f"{store.uri}/ensembles/r1", f"{store.uri}/ensembles/r1/latest"):
        assert read_manifest(uri) == whole
    with pytest.raises(EnsembleError, match="no complete ensemble"):
        resolve(f"{store.uri}/ensembles/r1/v2")

    store.put("runs/r1/fold-1/model.safetensors", weights[1])
    assert publish_run(rescored(results, 0.5)).version == "v3"  # the number of the dead one is not used again


def test_weights_that_are_not_the_trained_ones_are_not_published(
    store: Store, results: list[FoldResult], weights: list[bytes], publish_run: Publisher
) -> None:
    store.put("runs/r1/fold-1/model.safetensors", weights[0])
    with pytest.raises(IntegrityError, match=r"fold-1/model\.safetensors"):
        publish_run(results)
    assert [version.manifest for version in list_ensembles(store)] == [None]


def test_the_manifest_is_written_last(
    store: Store, results: list[FoldResult], publish_run: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_new = type(store).put_new
    before: list[set[str]] = []

    def watched(self: Store, key: str, data: bytes) -> bool:
        if key == "manifest.json":
            before.append({entry.key for entry in self.list()})
        return put_new(self, key, data)

    monkeypatch.setattr(type(store), "put_new", watched)
    publish_run(results)
    assert before == [{"claim.json", "fold-0.safetensors", "fold-1.safetensors", "model-card.md"}]


def test_the_card_holds_scores_and_digests(store: Store, results: list[FoldResult], publish_run: Publisher) -> None:
    publish_run(results)
    card = store.get("ensembles/r1/v1/model-card.md").decode()
    assert card.startswith("# r1 v1\n")
    for text in ("0.7123 at 0.50", "0.7321 at 0.44", "scores 0.3900", "64x64", "2 albunet models", "d" * 64):
        assert text in card
    for result in results:
        assert f"| {result.fold} | {result.score:.4f} | `{result.weights_sha256[:12]}` |" in card


def test_a_broken_ensemble_of_another_name_is_no_hindrance(
    store: Store, results: list[FoldResult], publish_run: Publisher
) -> None:
    store.put("ensembles/other/v1/manifest.json", b"{")
    store.put_json("ensembles/newer/v1/manifest.json", {"format": 99})
    assert publish_run(results).version == "v1"
