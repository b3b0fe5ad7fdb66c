"""The model card of an ensemble: what a person needs to know before using it, as Markdown."""

from saltray.ensemble.manifest import EnsembleManifest, SearchProvenance


def model_card(manifest: EnsembleManifest) -> str:
    """Input, output, scores, where the models come from, and the digest of each member."""
    several = manifest.config.train.snapshots > 1
    folds = "\n".join(
        f"| {member.fold} | {f'{member.snapshot} | ' * several}{member.score:.4f} | `{member.sha256[:12]}` |"
        for member in manifest.members
    )
    heads, rule = "snapshot | " * several, "---|" * several
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.provenance.items() if version)
    search = _search_line(manifest.search_provenance) if manifest.search_provenance else ""
    network, train = manifest.config.model.title, manifest.config.train
    enlarged = f"enlarged {train.resize} times and " * (train.resize > 1)
    padded = f"{enlarged}padded by reflection to {train.input_size}"
    recipe = f" Recipe: `{manifest.config.recipe}`." * (manifest.config.recipe is not None)
    return f"""# {manifest.name} {manifest.version}

{len(manifest.members)} {network} models, cross-validated; their probabilities are averaged.

- Input: grey tiles of {manifest.height}x{manifest.width} pixels, 8 bit, {padded}.
- Output: probability of salt for each pixel; salt is a probability above {manifest.threshold:.2f}.
- Out-of-fold score: {manifest.score:.4f} at 0.50, {manifest.score_at_threshold:.4f} at {manifest.threshold:.2f}.
  Predicting no salt at all scores {manifest.baseline:.4f} on the same tiles.
- Every out-of-fold score is of a model that did not see the tile. The threshold was chosen on the same predictions,
  so the second score is a little optimistic. Tiles cut from one section resemble each other across folds.
- Tiles: content digest `{manifest.dataset}`. Run: `{manifest.run}`.{recipe}
{search}- Made with {libraries}.

| fold | {heads}score at 0.50 | sha256 |
|---|{rule}---|---|
{folds}
"""


def _search_line(found: SearchProvenance) -> str:
    values = ", ".join(f"{field} {value}" for field, value in found.values.items())
    return f"- Found by search `{found.search}`, {found.trial}: {values}.\n"
