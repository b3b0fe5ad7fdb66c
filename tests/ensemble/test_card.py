"""The model card shows what the manifest holds."""

import dataclasses

from saltray.ensemble.card import model_card
from saltray.ensemble.manifest import EnsembleManifest, SearchProvenance
from saltray.recipes import blog


def test_the_card_shows_input_scores_and_digests(manifest: EnsembleManifest) -> None:
    card = model_card(manifest)
    assert card.startswith("# r1 v1\n\n5 albunet models, cross-validated")
    for text in (
        "tiles of 101x101 pixels, 8 bit, padded by reflection to 128",
        "salt is a probability above 0.46",
        "Out-of-fold score: 0.3000 at 0.50, 0.7500 at 0.46",
        "Predicting no salt at all scores 0.3900",
        f"content digest `{'d' * 64}`. Run: `r1`.\n- Made with python 3.11.9.\n",
    ):
        assert text in card
    for member in manifest.members:
        assert f"| {member.fold} | {member.score:.4f} | `{member.sha256[:12]}` |\n" in card


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


def test_the_card_tells_the_recipe_and_how_tiles_are_enlarged(manifest: EnsembleManifest) -> None:
    card = model_card(dataclasses.replace(manifest, config=blog(data="tiles")))
    assert "8 bit, enlarged 2 times and padded by reflection to 256.\n" in card
    assert "Run: `r1`. Recipe: `blog-1`.\n" in card
