"""A published ensemble: digests are checked before anything is parsed, and probabilities are averaged."""

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from saltray.config import Config, ModelConfig
from saltray.ensemble.card import model_card
from saltray.ensemble.load import Ensemble, MemberCheck
from saltray.ensemble.postprocess import Postprocess, blank_tiles
from saltray.ensemble.publishing import FoldModel
from saltray.errors import ConfigError, EnsembleError, IntegrityError, NotFoundError
from saltray.models.build import build_model
from saltray.storage.base import Store

from .conftest import Publisher, flipped, put_fold


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Three tiles of the size that the network sees, so that nothing is padded."""
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)


def test_load_gives_what_was_published(uri: str, weights: list[bytes]) -> None:
    ensemble = Ensemble.load(uri, device="cpu")
    assert (ensemble.threshold, ensemble.manifest.version, ensemble.device) == (0.44, "v1", torch.device("cpu"))
    assert ensemble.manifest.postprocess == Postprocess(threshold=0.44, min_area=12, blank_is_empty=True)
    for model, data in zip(ensemble.models, weights, strict=True):
        assert not model.training
        assert all(torch.equal(model.state_dict()[key], value) for key, value in load(data).items())


def test_a_flipped_bit_is_refused_before_it_is_parsed(
    uri: str, store: Store, weights: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("ensembles/r1/v1/fold-1.safetensors", flipped(weights[1]))
    parsed: list[bytes] = []

    def watched(data: bytes) -> dict[str, torch.Tensor]:
        parsed.append(data)
        return load(data)

    monkeypatch.setattr(safetensors.torch, "load", watched)
    with pytest.raises(IntegrityError, match=r"fold-1\.safetensors: its SHA-256 is"):
        Ensemble.load(uri, device="cpu")
    assert parsed == [weights[0]]


def test_a_missing_member_is_named(uri: str, store: Store) -> None:
    store.delete("ensembles/r1/v1/fold-1.safetensors")
    told = f"{store.uri}/ensembles/r1/v1/fold-1.safetensors is missing; restore it, or use another version"
    with pytest.raises(NotFoundError) as caught:
        Ensemble.load(uri, device="cpu")
    assert str(caught.value) == told
    assert [check.fault for check in Ensemble.verify(uri)] == [None, told]


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_torch_cannot_use_is_refused(uri: str, device: str) -> None:
    with pytest.raises(ConfigError, match=f"^device {device} cannot be used here .*; use another one, such as cpu$"):
        Ensemble.load(uri, device=device)


@pytest.mark.parametrize("model", [ModelConfig(architecture="unet", num_filters=2, encoder_width=4), None])
def test_a_member_that_does_not_fit_is_one_line(
    store: Store, models: list[FoldModel], publish_run: Publisher, model: ModelConfig | None
) -> None:
    data = b"no safetensors" if model is None else save(build_model(model).state_dict())
    publish_run([models[0], put_fold(store, 1, data)])
    with pytest.raises(EnsembleError, match=r"fold-1\.safetensors does not fit .*; use another") as caught:
        Ensemble.load(f"{store.uri}/ensembles/r1", device="cpu")
    assert "\n" not in str(caught.value)
    if model is not None:
        assert "Missing key" in str(caught.value)


def test_a_member_that_is_not_finite_is_refused(
    store: Store, models: list[FoldModel], publish_run: Publisher, weights: list[bytes]
) -> None:
    state = load(weights[1])
    state["final.weight"][0] = torch.nan
    publish_run([models[0], put_fold(store, 1, save(state))])
    with pytest.raises(EnsembleError, match=r"fold-1\.safetensors .*some weights are NaN or infinite; use another"):
        Ensemble.load(f"{store.uri}/ensembles/r1", device="cpu")


def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(uri: str, store: Store) -> None:
    key = "ensembles/r1/v1/manifest.json"
    store.put(key, store.get(key).replace(b'"encoder_width": 4', b'"encoder_width": 1024'))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EnsembleError, match="does not fit its architecture: .*size mismatch"):
        Ensemble.load(uri, device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024  # of some 25 GB


def test_probabilities_are_averaged_over_folds_and_mirror_images(
    uri: str, config: Config, weights: list[bytes], images: NDArray[np.uint8]
) -> None:
    ensemble = Ensemble.load(uri, device="cpu")
    inputs = torch.from_numpy(images)[:, None] / 255
    plain, mirrored = [], []
    with torch.no_grad():
        for data in weights:
            model = build_model(config.model).eval()
            model.load_state_dict(load(data))
            plain.append(model(inputs)[:, 0].sigmoid().numpy())
            mirrored.append(model(inputs.flip(-1)).flip(-1)[:, 0].sigmoid().numpy())
    assert np.abs(plain[0] - plain[1]).max() > 1e-3  # otherwise the mean would equal each of them
    assert np.abs(plain[0] - mirrored[0]).max() > 1e-3

    without = ensemble.predict(images, tta=False, batch_size=2)
    assert (str(without.dtype), without.shape) == ("float32", images.shape)
    np.testing.assert_allclose(without, sum(plain) / 2, atol=1e-5)
    np.testing.assert_allclose(ensemble.predict(images), (sum(plain) + sum(mirrored)) / 4, atol=1e-5)


def test_tiles_of_any_size_and_layout(uri: str, images: NDArray[np.uint8]) -> None:
    ensemble = Ensemble.load(uri, device="cpu")
    small = images[:, 5:46, ::2]  # [3, 41, 32], not contiguous
    result = ensemble.predict(small, tta=False)
    assert result.shape == small.shape
    np.testing.assert_array_equal(result, ensemble.predict(small.copy(), tta=False))
    np.testing.assert_allclose(ensemble.predict(small[1:2], tta=False)[0], result[1], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((3, 64, 64), "float32", r"images are float32 of shape \(3, 64, 64\)"),
        ((3, 64, 64), "int64", r"images are int64"),
        ((64, 64), "uint8", r"of shape \(64, 64\); give 8-bit grey tiles"),
        ((3, 64, 64, 3), "uint8", r"of shape \(3, 64, 64, 3\)"),
    ],
)
def test_other_images_are_refused(uri: str, shape: tuple[int, ...], dtype: str, message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        Ensemble.load(uri, device="cpu").predict(np.zeros(shape, dtype))


def test_masks_are_post_processed_probabilities(uri: str, images: NDArray[np.uint8]) -> None:
    ensemble = Ensemble.load(uri, device="cpu")
    tiles = images.copy()
    tiles[1] = 7  # blank
    probabilities = ensemble.predict(tiles, tta=False)
    plain = Postprocess(threshold=float(np.median(probabilities[[0, 2]])))
    areas = plain.apply(probabilities, tiles).sum(axis=(1, 2))
    assert (areas > 0).all()
    for rule in (plain, replace(plain, blank_is_empty=True), replace(plain, min_area=int(areas.max()))):
        ruled = Ensemble(replace(ensemble.manifest, postprocess=rule), ensemble.models, ensemble.device)
        masks = ruled.predict_masks(tiles, tta=False)
        np.testing.assert_array_equal(masks, rule.apply(probabilities, tiles))
        kept = areas * (areas >= rule.min_area) * (~blank_tiles(tiles) | (not rule.blank_is_empty))
        assert masks.sum(axis=(1, 2)).tolist() == kept.tolist()
        np.testing.assert_array_equal(ruled.predict(tiles, tta=False), probabilities)  # which stay raw


def test_the_device_is_a_gpu_where_there_is_one(uri: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ensemble = Ensemble.load(uri)
    assert ensemble.device.type == device
    assert {parameter.device.type for model in ensemble.models for parameter in model.parameters()} == {device}
    assert Ensemble.load(uri, device=torch.device("cpu")).device.type == "cpu"


def test_verify_finds_a_flipped_bit_and_a_lost_member(
    uri: str, store: Store, models: list[FoldModel], weights: list[bytes]
) -> None:
    good = MemberCheck("fold-0.safetensors", None)
    assert Ensemble.verify(uri) == (good, MemberCheck("fold-1.safetensors", None))
    store.put("ensembles/r1/v1/fold-1.safetensors", flipped(weights[1]))
    first, second = Ensemble.verify(uri)
    assert (first, second.key) == (good, "fold-1.safetensors")
    assert models[1].sha256 in (second.fault or "")
    store.delete("ensembles/r1/v1/fold-1.safetensors")
    assert "fold-1.safetensors is missing; restore it" in (Ensemble.verify(uri)[1].fault or "")


def test_card(uri: str) -> None:
    assert Ensemble.card(uri) == model_card(Ensemble.load(uri, device="cpu").manifest)


@pytest.mark.parametrize("call", [Ensemble.load, Ensemble.verify, Ensemble.card])
def test_a_missing_ensemble_is_refused(store: Store, call: Callable[[str], object]) -> None:
    with pytest.raises(EnsembleError, match=r"no complete ensemble at .*ensembles/r1"):
        call(f"{store.uri}/ensembles/r1")


def test_verify_and_card_load_no_torch(uri: str) -> None:
    code = (
        "import sys\n"
        "from saltray.ensemble.load import Ensemble\n"
        f"assert len(Ensemble.verify({uri!r})) == 2 and Ensemble.card({uri!r})\n"
        "assert not {'torch', 'ray', 'pandas', 'pyarrow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
