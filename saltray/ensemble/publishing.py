"""Publishing: claim a version, write the members, write the manifest last.

The claim is a small create-only put, so that two publishers never write into one version; a publisher that dies leaves
a claim without a manifest, which no reader takes for an ensemble, and its number is not used again.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from saltray.config import Config, check_name, to_dict
from saltray.ensemble.manifest import EnsembleManifest, FoldResult, Member, provenance
from saltray.ensemble.threshold import ThresholdChoice
from saltray.ensemble.versions import number, versions_of
from saltray.errors import EnsembleError
from saltray.storage.base import Store


def publish(
    store: Store,
    *,
    config: Config,
    results: list[FoldResult],
    choice: ThresholdChoice,
    score: float,
    floor: float,
    dataset: dict[str, Any],
    origin: dict[str, Any] | None = None,
) -> EnsembleManifest:
    """Publish the finished folds of a run as the next version of the ensemble that bears the run's name.

    A run whose very models are already published gives that version back, so the same command twice publishes once.

    Args:
        store: the whole store.
        config: the run's configuration.
        results: one a fold, in any order.
        choice: the threshold and its out-of-fold score.
        score: out-of-fold competition score at 0.5.
        floor: share of empty tiles.
        dataset: the manifest of the packed tiles.
        origin: the search that the run's values come from, where there was one.

    Raises:
        EnsembleError: a fold is missing.
    """
    missing = sorted(set(range(config.folds.count)) - {result.fold for result in results})
    if missing:
        raise EnsembleError(
            f"run {config.run} lacks fold {', '.join(map(str, missing))}, so it is not published; "
            "run the same command again to train what is missing"
        )
    name = check_name(config.run, "ensemble")
    members = tuple(
        Member(
            fold=result.fold, key=f"fold-{result.fold}.safetensors", sha256=result.weights_sha256, score=result.score
        )
        for result in sorted(results, key=lambda result: result.fold)
    )
    draft = EnsembleManifest(
        name=name,
        version="v0",
        members=members,
        height=dataset["height"],
        width=dataset["width"],
        threshold=choice.threshold,
        score=score,
        score_at_threshold=choice.score,
        floor=floor,
        run=config.run,
        dataset=dataset["digest"],
        config=to_dict(config),
        provenance=provenance(),
        origin=origin,
    )
    versions = versions_of(store, name)
    for version in versions:
        if version.manifest is not None and version.manifest.members == members:
            return version.manifest
    manifest = dataclasses.replace(draft, version=_claim(store, name, versions[-1].version if versions else "v0"))
    home = store.sub(f"ensembles/{name}/{manifest.version}")
    for member in members:
        _copy(store, f"runs/{config.run}/fold-{member.fold}/model.safetensors", home, member)
    home.put("model-card.md", model_card(manifest).encode())
    if not home.put_new_json("manifest.json", manifest.to_json()):
        raise EnsembleError(f"{home.uri} was published by another process; publish again to get the next version")
    return manifest


def _claim(store: Store, name: str, newest: str) -> str:
    """Take the next free version number; the loser of a race takes the one after."""
    at = number(newest) + 1
    while not store.put_new_json(f"ensembles/{name}/v{at}/claim.json", {"version": f"v{at}"}):
        at += 1
    return f"v{at}"


def _copy(source: Store, key: str, home: Store, member: Member) -> None:
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        path = Path(folder, member.key)
        source.get_file(key, path, sha256=member.sha256)
        home.put_file(member.key, path)


def model_card(manifest: EnsembleManifest) -> str:
    """What a person needs to know before using the ensemble, as Markdown."""
    model, train = manifest.config["model"], manifest.config["train"]
    folds = "\n".join(f"| {member.fold} | {member.score:.4f} | `{member.sha256[:12]}` |" for member in manifest.members)
    libraries = ", ".join(f"{name} {value}" for name, value in manifest.provenance.items() if value)
    return f"""# {manifest.name} {manifest.version}

{len(manifest.members)} {model["architecture"]} models, cross-validated; their probabilities are averaged.

- Input: grey tiles of {manifest.height}x{manifest.width} pixels, 8 bit, padded by reflection to {train["input_size"]}.
- Output: probability of salt for each pixel; salt is a probability above {manifest.threshold:.2f}.
- Out-of-fold score: {manifest.score:.4f} at 0.50, {manifest.score_at_threshold:.4f} at {manifest.threshold:.2f}.
  Predicting no salt at all scores {manifest.floor:.4f} on the same tiles.
- Every out-of-fold score is of a model that did not see the tile. The threshold was chosen on the same predictions,
  so the second score is a little optimistic. Tiles cut from one section resemble each other across folds.
- Tiles: content digest `{manifest.dataset}`. Run: `{manifest.run}`.
{_origin(manifest)}- Made with {libraries}.

| fold | score at 0.50 | sha256 |
|---|---|---|
{folds}
"""


def _origin(manifest: EnsembleManifest) -> str:
    if manifest.origin is None:
        return ""
    values = ", ".join(f"{field} {value}" for field, value in manifest.origin["values"].items())
    return f"- Found by search `{manifest.origin['search']}`, {manifest.origin['trial']}: {values}.\n"
