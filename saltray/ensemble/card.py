"""The model card of an ensemble: what a person needs to know before using it, as Markdown."""

from saltray.ensemble.manifest import EnsembleManifest, SearchProvenance
from saltray.training.evaluation import Evaluation


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
- Output: probability of salt for each pixel. Masks: {manifest.postprocess}.
{_score_lines(manifest)}
- Predicting no salt at all scores {manifest.baseline:.4f} on the same tiles.
- Every out-of-fold score is of a model that did not see the tile. Tiles cut from one section resemble each other
  across folds.
- Tiles: content digest `{manifest.dataset}`. Run: `{manifest.run}`.{recipe}
{search}{_labels_line(manifest)}- Made with {libraries}.

| fold | {heads}score at 0.50 | sha256 |
|---|{rule}---|---|
{folds}
{_tables(manifest.evaluation) if manifest.evaluation is not None else ""}"""


def _score_lines(manifest: EnsembleManifest) -> str:
    honest = manifest.evaluation
    if honest is None:
        return (
            f"- Out-of-fold score: {manifest.score:.4f} at 0.50, {manifest.score_at_threshold:.4f} with these masks,\n"
            "  which is optimistic: their settings were chosen on the same predictions."
        )
    spread = "" if honest.spread is None else f"; standard deviation over folds {honest.spread:.4f}"
    return f"""- Out-of-fold score: **{honest.score:.4f}**, 95 % interval {honest.interval} by bootstrap over
  tiles{spread}. It is cross-fitted: each fold is scored with masks whose settings were chosen on the other folds.
- Chosen and scored on the same predictions: {manifest.score_at_threshold:.4f}, so the optimism of the choice is
  {honest.optimism:.4f}. At a probability of 0.50 and nothing more: {manifest.score:.4f}.
- Scored weights: {honest.weights}.
- Expected calibration error over pixels: {honest.reliability.error:.4f}. Largest probability:
  {honest.reliability.largest:.2f}."""


def _tables(honest: Evaluation) -> str:
    """Scores by coverage, and the price of choices."""
    strata = "\n".join(f"| {row.name} | {row.tiles} | {row.score:.4f} | {row.interval} |" for row in honest.strata)
    prices = "\n".join(
        f"| {row.models} | {'yes' if row.tta else 'no'} | {'–' if row.score is None else f'{row.score:.4f}'} "  # noqa: RUF001
        f"| {'–' if row.gain is None else f'{row.gain.low:+.4f} to {row.gain.high:+.4f}'} "  # noqa: RUF001
        f"| {'–' if row.seconds is None else f'{1000 * row.seconds:.3g}'} |"  # noqa: RUF001
        for row in honest.prices
    )
    time = f"ms a tile on {honest.device}" if honest.device else "ms a tile"
    return f"""
| label | tiles | score | 95 % interval |
|---|---|---|---|
{strata}

| models | mirror images | score at 0.50 | 95 % interval of their gain | {time} |
|---|---|---|---|---|
{prices}

Each training tile is known to the models of all folds but one, so those of several folds have no out-of-fold score.
"""


def _labels_line(manifest: EnsembleManifest) -> str:
    labels = manifest.pseudo_labels
    if labels is None:
        return ""
    return f"""- Trained on {labels.tiles} test tiles, too, by each fold with the masks of its own models in
  `{labels.uri}`.
"""


def _search_line(found: SearchProvenance) -> str:
    values = ", ".join(f"{field} {value}" for field, value in found.values.items())
    return f"- Found by search `{found.search}`, {found.trial}: {values}.\n"
