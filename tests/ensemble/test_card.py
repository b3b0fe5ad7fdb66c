"""The model card shows what the manifest holds."""

import dataclasses

from saltray.ensemble.card import model_card
from saltray.ensemble.manifest import EnsembleManifest, PseudoLabelsProvenance, SearchProvenance
from saltray.recipes import blog


def test_the_card_shows_input_scores_and_digests(manifest: EnsembleManifest) -> None:
    card = model_card(manifest)
    assert card.startswith("# r1 v1\n\n5 albunet models, cross-validated")
    for text in (
        "tiles of 101x101 pixels, 8 bit, padded by reflection to 128",
        "Masks: threshold 0.46, masks below 30 pixels emptied, blank tiles emptied.",
        "Out-of-fold score: **0.7211**, 95 % interval 0.7012 to 0.7398 by bootstrap over\n  tiles; standard deviation",
        "same predictions: 0.7500, so the optimism of the choice is\n  0.0135. At a probability of 0.50",
        "Scored weights: weights after the last epoch, 3.",
        "calibration error over pixels: 0.0123. Largest probability:\n  0.59.",
        "| 0.1 to 9.7 % salt | 37 | 0.3000 | 0.2000 to 0.4100 |\n",
        "ms a tile on CPU |",
        "| 1 | no | 0.6912 | – | 11.5 |\n| 1 | yes | 0.7012 | +0.0061 to +0.0139 | 23 |\n",  # noqa: RUF001
        "| 2 | no | – | – | 23 |\n| 2 | yes | – | – | 46 |\n",  # noqa: RUF001
        "Predicting no salt at all scores 0.3900",
        f"content digest `{'d' * 64}`. Run: `r1`.\n- Made with python 3.11.9.\n",
    ):
        assert text in card
    for member in manifest.members:
        assert f"| {member.fold} | {member.score:.4f} | `{member.sha256[:12]}` |\n" in card


def test_the_card_of_a_version_without_an_evaluation_calls_its_score_optimistic(manifest: EnsembleManifest) -> None:
    card = model_card(dataclasses.replace(manifest, evaluation=None))
    assert "Out-of-fold score: 0.3000 at 0.50, 0.7500 with these masks,\n  which is optimistic" in card
    assert "95 % interval" not in card
    assert card.endswith(f"| `{manifest.members[-1].sha256[:12]}` |\n")


def test_the_card_names_the_search_that_found_the_values(manifest: EnsembleManifest) -> None:
    found = SearchProvenance(
        uri="s3://bucket/searches/s1",
        search="s1",
        trial="trial-003",
        values={"optim.lr": 0.0012, "train.sync_batchnorm": False},
        score=0.81,
        trials=16,
    )
    card = model_card(dataclasses.replace(manifest, search_provenance=found))
    assert "\n- Found by search `s1`, trial-003: optim.lr 0.0012, train.sync_batchnorm False.\n" in card
    assert "Found by search" not in model_card(manifest)


def test_the_card_tells_the_labels_of_test_tiles(manifest: EnsembleManifest) -> None:
    labels = PseudoLabelsProvenance(
        uri="s3://b/ensembles/r0/v1", members=(0,), sha256=("a" * 64,), images="b" * 64, tiles=900
    )
    card = model_card(dataclasses.replace(manifest, pseudo_labels=labels))
    assert "- Trained on 900 test tiles, too, by each fold with the masks of its own models in\n  `s3://b/ens" in card
    assert "test tiles" not in model_card(manifest)


def test_the_card_tells_the_recipe_and_how_tiles_are_enlarged(manifest: EnsembleManifest) -> None:
    card = model_card(dataclasses.replace(manifest, config=blog(data="tiles")))
    assert "8 bit, enlarged 2 times and padded by reflection to 256.\n" in card
    assert "Run: `r1`. Recipe: `blog-1`.\n" in card
