"""Whole networks and encoders load from every form that people keep them in; anything else is refused in one line."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from saltray.errors import ConfigError, ModelError, NotFoundError, StorageError
from saltray.models.albunet import AlbuNet
from saltray.models.encoders import VGGS, ResNetEncoder
from saltray.models.network import Network
from saltray.models.parts import DecoderParts
from saltray.models.ternausnet import TernausNet
from saltray.models.unet import UNet
from saltray.models.weights import load_weights
from saltray.storage.files import sha256_of
from saltray.storage.uri import open_store

State = dict[str, Tensor]
Outputs = Callable[[nn.Module], Tensor]
MODULES = {
    "conv1.0": "conv1",
    "conv1.1": "bn1",
    "conv2": "layer1",
    "conv3": "layer2",
    "conv4": "layer3",
    "conv5": "layer4",
}
"""Second names of the encoder's modules in published AlbuNet checkpoints."""


def published(model: AlbuNet) -> State:
    """The state dict of the published class: with the encoder's second names and the unused classifier."""
    state = dict(model.state_dict())
    for alias, name in MODULES.items():
        for key, tensor in getattr(model.encoder, name).state_dict().items():
            state[f"{alias}.{key}"] = tensor
    return {**state, "encoder.fc.weight": torch.zeros(1000, 32), "encoder.fc.bias": torch.zeros(1000)}


def save(path: Path, state: Any) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def read(path: str) -> State:
    loaded: State = (
        safetensors.torch.load_file(path) if path.endswith(".safetensors") else torch.load(path, weights_only=True)
    )
    return loaded


def new(
    kind: Callable[..., Network] = AlbuNet, num_filters: int = 3, encoder_width: int = 4, **settings: Any
) -> Network:
    return kind(num_filters=num_filters, encoder_width=encoder_width, **settings)


FORMS: dict[str, Callable[[State], State]] = {
    "as published": lambda state: state,
    "from DDP": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "copies": lambda state: {key: tensor.clone() for key, tensor in state.items()},
    "without encoder": lambda state: {key: t for key, t in state.items() if not key.startswith("encoder.")},
    "without aliases": lambda state: {key: t for key, t in state.items() if not key.startswith("conv")},
    "without fc": lambda state: {key: t for key, t in state.items() if ".fc." not in key},
    "before PyTorch 0.4.1": lambda state: {key: t for key, t in state.items() if "num_batches" not in key},
}


@pytest.mark.parametrize("form", FORMS)
def test_published_albunet_loads_whole(tmp_path: Path, small_albunet: AlbuNet, outputs: Outputs, form: str) -> None:
    state = published(small_albunet)
    assert len(state) == 462
    model = new()
    assert not torch.equal(outputs(model), outputs(small_albunet))
    load_weights(model, save(tmp_path / "albunet.pth", FORMS[form](state)))
    assert torch.equal(outputs(model), outputs(small_albunet))


@pytest.mark.parametrize("name", ["own.safetensors", "own.pth"])
@pytest.mark.parametrize("kind", [AlbuNet, TernausNet, UNet])
def test_our_own_networks_load_whole(
    tmp_path: Path, kind: Callable[..., Network], name: str, outputs: Outputs, randomise: Callable[[nn.Module], None]
) -> None:
    trained, model = new(kind), new(kind)
    randomise(trained)
    assert not torch.equal(outputs(model), outputs(trained))
    load_weights(model, save(tmp_path / name, trained.state_dict()))
    assert all(torch.equal(tensor, trained.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(outputs(model), outputs(trained))


def changed(state: State, key: str, tensor: Tensor | None) -> State:
    """With another tensor, or without it."""
    return {**state, key: tensor} if tensor is not None else {k: t for k, t in state.items() if k != key}


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("final.bias", None, r"do not fit AlbuNet: 1 missing \('final.bias'\); build the model with"),
        ("extra.bias", torch.zeros(1), r"do not fit AlbuNet: 1 unexpected \('extra.bias'\); build"),
        ("x" * 3000, torch.zeros(1), r"do not fit AlbuNet: 1 unexpected \('x"),
        ("two\nlines", torch.zeros(1), r"do not fit AlbuNet: 1 unexpected \('two\\nlines'\); build"),
        ("final.bias", torch.zeros(2), r"1 of another shape \('final.bias' \[2\] instead of \[1\]\); build"),
        ("conv1.1.bias", torch.full((4,), 9.0), r"1 tensors differ from their copies .*\('conv1.1.bias'\); save"),
        ("conv1.1.bias", torch.zeros(5), r"1 tensors differ from their copies .*\('conv1.1.bias'\); save"),
    ],
)
def test_unfit_checkpoint_is_refused_and_changes_nothing(
    tmp_path: Path, small_albunet: AlbuNet, outputs: Outputs, key: str, tensor: Tensor | None, message: str
) -> None:
    path = save(tmp_path / "albunet.pth", changed(published(small_albunet), key, tensor))
    model = new()
    before = outputs(model)
    with pytest.raises(ModelError, match=message) as error:
        load_weights(model, path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert torch.equal(outputs(model), before)


@pytest.mark.parametrize("model", [AlbuNet(1, 2, encoder_width=4), AlbuNet(1, 3, encoder_width=6)])
def test_message_about_other_widths_names_their_settings(
    tmp_path: Path, small_albunet: AlbuNet, model: AlbuNet
) -> None:
    path = save(tmp_path / "albunet.pth", published(small_albunet))
    with pytest.raises(ModelError, match=r"of another shape \(.*num_filters, encoder_width.*trained with$"):
        load_weights(model, path)


def test_message_names_the_first_few_keys(tmp_path: Path, small_albunet: AlbuNet) -> None:
    decoder = {key: t for key, t in small_albunet.state_dict().items() if not key.startswith("encoder.")}
    with pytest.raises(
        ModelError, match=r"AlbuNet: 180 missing \('encoder.conv1.weight', '[^']*', '[^']*', \.\.\.\); build"
    ) as error:
        load_weights(new(), save(tmp_path / "decoder.pth", decoder))
    assert len(str(error.value)) < 400


def resnet_file(folder: Path, name: str, *, encoder: str = "resnet34", fc: bool = True) -> str:
    torch.manual_seed(1)
    state = torchvision.models.get_model(encoder, weights=None).state_dict()
    return save(folder / name, {key: tensor for key, tensor in state.items() if fc or not key.startswith("fc.")})


@pytest.mark.parametrize(
    ("name", "encoder", "fc", "tensors"),
    [
        ("r.pth", "resnet34", True, 216),
        ("r.pt", "resnet34", False, 216),
        ("r.safetensors", "resnet18", True, 120),
        ("r.safetensors", "resnet50", True, 318),
    ],
)
def test_a_resnet_loads_into_the_encoder_of_albunet(
    tmp_path: Path, name: str, encoder: str, fc: bool, tensors: int
) -> None:
    path = resnet_file(tmp_path, name, encoder=encoder, fc=fc)
    model = new(encoder=encoder, encoder_width=64)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load_weights(model, path)
    theirs = {f"encoder.{key}": tensor for key, tensor in read(path).items() if not key.startswith("fc.")}
    assert len(theirs) == tensors
    assert not torch.equal(before["encoder.conv1.weight"], theirs["encoder.conv1.weight"])
    expected = {**before, **theirs}
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["features.", "module.features.", ""])
@pytest.mark.parametrize("encoder", VGGS)
def test_a_vgg_loads_into_the_encoder_of_ternausnet(tmp_path: Path, encoder: str, prefix: str) -> None:
    trained = new(TernausNet, encoder=encoder).encoder.state_dict()
    state = {f"{prefix}{key}": tensor for key, tensor in trained.items()}
    if prefix:
        state[f"{prefix.replace('features', 'classifier')}0.bias"] = torch.zeros(4096)
    model = new(TernausNet, encoder=encoder)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert not torch.equal(before["encoder.0.weight"], trained["0.weight"])
    load_weights(model, save(tmp_path / "vgg.pth", state))
    expected = before | {f"encoder.{key}": tensor for key, tensor in trained.items()}
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_the_encoder_of_another_depth_is_refused(tmp_path: Path) -> None:
    state = new(encoder="resnet34").encoder.state_dict()
    with pytest.raises(
        ModelError,
        match=r"fit the encoder of AlbuNet: 96 unexpected .*torchvision's resnet18 or set the encoder to theirs",
    ):
        load_weights(new(encoder="resnet18"), save(tmp_path / "r.pth", state))


EVERY_PART = DecoderParts(batchnorm=True, scse=True, hypercolumn=True, deep_supervision=True)
NAMES = "decoder_batchnorm, scse, hypercolumn, deep_supervision"


def test_published_albunet_loads_into_one_with_parts_and_means_the_same(
    tmp_path: Path, small_albunet: AlbuNet, outputs: Outputs, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "albunet.pth", published(small_albunet))
    model = new(parts=EVERY_PART)
    load_weights(model, path)
    torch.testing.assert_close(outputs(model), outputs(small_albunet), rtol=1e-3, atol=1e-3)
    assert caplog.messages == [
        f"weights '{path}' were trained without {NAMES}: these parts of the decoder start untrained"
    ]


@pytest.mark.parametrize("kind", [TernausNet, UNet])
def test_plain_weights_load_into_a_network_with_parts(
    tmp_path: Path,
    kind: Callable[..., Network],
    outputs: Outputs,
    randomise: Callable[[nn.Module], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = new(kind)
    randomise(plain)
    model = new(kind, parts=replace(EVERY_PART, batchnorm=kind is TernausNet))
    load_weights(model, save(tmp_path / "plain.safetensors", plain.state_dict()))
    torch.testing.assert_close(outputs(model), outputs(plain), rtol=1e-3, atol=1e-3)
    assert len(caplog.messages) == 1


PARTS = [DecoderParts(**{name: True}) for name in ("batchnorm", "scse", "hypercolumn", "deep_supervision")]


@pytest.mark.parametrize("parts", [*PARTS, EVERY_PART])
def test_weights_with_parts_load_whole_into_the_same(
    tmp_path: Path, parts: DecoderParts, randomise: Callable[[nn.Module], None], caplog: pytest.LogCaptureFixture
) -> None:
    trained, model = new(parts=parts), new(parts=parts)
    randomise(trained)
    load_weights(model, save(tmp_path / "own.pth", trained.state_dict()))
    assert all(torch.equal(tensor, trained.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert not caplog.messages


@pytest.mark.parametrize("parts", PARTS)
def test_a_part_that_the_weights_have_is_loaded_beside_those_that_they_lack(
    tmp_path: Path, parts: DecoderParts, randomise: Callable[[nn.Module], None], caplog: pytest.LogCaptureFixture
) -> None:
    trained, model = new(parts=parts), new(parts=EVERY_PART)
    randomise(trained)
    load_weights(model, save(tmp_path / "own.pth", trained.state_dict()))
    loaded = model.state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in trained.state_dict().items())
    own = NAMES.split(", ")[PARTS.index(parts)]
    assert f"without {', '.join(name for name in NAMES.split(', ') if name != own)}:" in caplog.text


@pytest.mark.parametrize("parts", PARTS)
def test_a_part_that_the_network_lacks_is_refused(tmp_path: Path, parts: DecoderParts) -> None:
    path = save(tmp_path / "own.pth", new(parts=parts).state_dict())
    name = NAMES.split(", ")[PARTS.index(parts)]
    with pytest.raises(ModelError, match=rf"do not fit AlbuNet: \d+ unexpected .*parts of the decoder \({name}\) and"):
        load_weights(new(), path)


def test_half_a_part_is_refused(tmp_path: Path) -> None:
    state = new(parts=EVERY_PART).state_dict()
    path = save(tmp_path / "own.pth", changed(state, "dec3.scse.spatial.bias", None))
    with pytest.raises(ModelError, match=r"do not fit AlbuNet: 1 missing \('dec3.scse.spatial.bias'\)"):
        load_weights(new(parts=EVERY_PART), path)


@pytest.mark.parametrize("kind", [AlbuNet, TernausNet, UNet])
@pytest.mark.parametrize("part", ["whole", "encoder"])
def test_weights_for_rgb_give_a_network_for_grey_the_same_output(
    tmp_path: Path, kind: Callable[..., Network], part: str, outputs: Outputs, randomise: Callable[[nn.Module], None]
) -> None:
    rgb, grey = new(kind).double(), new(kind, in_channels=1).double()
    randomise(rgb)
    if part == "encoder" and kind is not UNet:
        load_weights(grey, save(tmp_path / "encoder.pth", rgb.encoder.state_dict()))
        own = {key: t for key, t in rgb.state_dict().items() if not key.startswith("encoder.")}
        grey.load_state_dict(own, strict=False)
    else:
        load_weights(grey, save(tmp_path / "whole.pth", rgb.state_dict()))
    images = torch.rand(2, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = rgb.eval()(images)
        assert expected.std() > 0.05
        torch.testing.assert_close(grey.eval()(images), expected, rtol=1e-4, atol=1e-5)
        for name, buffer in grey.named_buffers():
            if name.endswith(".offset"):
                buffer.zero_()
        assert (grey(images) - expected).abs().max() > 0.1


def test_published_albunet_gives_a_network_for_grey_the_same_output(
    tmp_path: Path, small_albunet: AlbuNet, outputs: Outputs
) -> None:
    model = new(in_channels=1)
    load_weights(model, save(tmp_path / "albunet.pth", published(small_albunet)))
    torch.testing.assert_close(outputs(model), outputs(small_albunet), rtol=1e-4, atol=1e-4)


def test_weights_for_grey_load_whole_and_are_refused_for_rgb(tmp_path: Path, outputs: Outputs) -> None:
    trained = new(in_channels=1)
    assert isinstance(trained.encoder, ResNetEncoder)
    nn.init.normal_(trained.encoder.conv1.get_buffer("offset"))
    path = save(tmp_path / "grey.pth", trained.state_dict())
    model = new(in_channels=1)
    load_weights(model, path)
    assert torch.equal(outputs(model), outputs(trained))
    with pytest.raises(ModelError, match=r"unexpected \('encoder.conv1.offset'\).* \[4, 1, 7, 7\] .*in_channels"):
        load_weights(new(), path)


RESNET, VGG11 = {"conv1.weight": torch.zeros(64, 3, 7, 7)}, {"features.0.weight": torch.zeros(4, 3, 3, 3)}


@pytest.mark.parametrize(
    ("kind", "state", "message"),
    [
        (UNet, RESNET, r"not of UNet \(found 'conv1.weight'\), and UNet has no pretrained encoder; give .* whole UNet"),
        (
            AlbuNet,
            VGG11,
            r"not of AlbuNet \(found 'features.0.weight'\); give .* whole AlbuNet, or .* resnet34 for its",
        ),
        (TernausNet, RESNET, r"not of TernausNet \(found 'conv1.weight'\); give .* torchvision's vgg11 for its"),
        (TernausNet, VGG11, r"fit the encoder of TernausNet: 15 missing .*; give .* torchvision's vgg11 or"),
        (AlbuNet, RESNET, r"'conv1.weight' \[64, 3, 7, 7\] instead of \[4, 3, 7, 7\]\); .* set encoder_width .*64"),
        (AlbuNet, {}, r"not of AlbuNet \(found no tensors\); give"),
        (AlbuNet, {"model": RESNET, "epoch": 3}, r"an entry 'model' of type dict, not named tensors alone; save"),
        (AlbuNet, {1: torch.zeros(3)}, r"an entry 1 of type Tensor, not named tensors alone; save"),
        (AlbuNet, torch.zeros(3), r"are a Tensor; save the model's state_dict\(\) instead"),
    ],
)
def test_other_content_is_refused_with_what_was_expected(
    tmp_path: Path, outputs: Outputs, kind: Callable[..., Network], state: Any, message: str
) -> None:
    model = new(kind)
    before = outputs(model)
    with pytest.raises(ModelError, match=message) as error:
        load_weights(model, save(tmp_path / "w.pth", state))
    assert "\n" not in str(error.value)
    assert torch.equal(outputs(model), before)


def test_weights_load_from_a_uri(tmp_path: Path, small_albunet: AlbuNet, outputs: Outputs) -> None:
    path = tmp_path / "fold 0.safetensors"
    save(path, small_albunet.state_dict())
    model = new()
    load_weights(model, path.as_uri())
    assert torch.equal(outputs(model), outputs(small_albunet))


def test_uri_errors_are_those_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        load_weights(new(), f"file://{tmp_path}/absent.pth")
    with pytest.raises(ConfigError, match="gs://"):
        load_weights(new(), "gs://bucket/absent.pth")


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.pth", b""),
        ("r.pth", b"not a state dict"),
        ("r.pth", pickle.dumps(Bomb(), protocol=2)),
        ("r.safetensors", b""),
        ("r.safetensors", b"\xff" * 64),
    ],
    ids=["empty", "text", "code", "empty-safetensors", "noise-safetensors"],
)
def test_unreadable_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"cannot read weights '{name}'") as error:
        load_weights(new(), name)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["IMAGENET1K_V9", "VGG16_Weights.IMAGENET1K_V1", "missing/resnet34.pth", "."])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ModelError, match=f"'{name}' are neither a file nor torchvision's .* resnet34.*IMAGENET1K_V1"):
        load_weights(new(), name)


@pytest.mark.parametrize(
    "name",
    ["pretrained/p2/model.safetensors", "pretrained/p1/model.safetensor", "pretrained/p1", "p2"],
)
def test_the_file_that_may_have_been_meant_is_named(any_store_uri: str, name: str) -> None:
    folder = "pretrained/p1" if name.startswith("pretrained") else "p1"
    open_store(any_store_uri).put(f"{folder}/model.safetensors", b"x")
    given = f"{any_store_uri}/{name}"
    with pytest.raises((ModelError, NotFoundError, ConfigError), match="did you mean") as error:
        load_weights(new(), given)
    assert str(error.value).endswith(f"; did you mean {any_store_uri}/{folder}/model.safetensors?")
    assert repr(given) in str(error.value)


def test_unet_has_no_weights_by_name() -> None:
    with pytest.raises(ModelError, match=r"'IMAGENET1K_V1' are not a file, and UNet has no pretrained encoder; give"):
        load_weights(new(UNet), "IMAGENET1K_V1")


def test_weights_for_another_normalisation_are_not_offered() -> None:
    with pytest.raises(ModelError, match=r"neither a file .* or one of IMAGENET1K_V1, DEFAULT$"):
        load_weights(new(TernausNet, encoder="vgg16"), "IMAGENET1K_FEATURES")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a proxy that refuses every connection at once."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


def test_torchvisions_name_is_no_mistyped_file(offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("IMAGENET1K_V1.pth").touch()
    with pytest.raises(ModelError, match="cannot download ResNet34_Weights.IMAGENET1K_V1"):
        load_weights(new(AlbuNet), "IMAGENET1K_V1")
    with pytest.raises(ModelError, match=r"'IMAGENET1K_V9' are not a file; did you mean IMAGENET1K_V1.pth\?"):
        load_weights(new(AlbuNet), "IMAGENET1K_V9")


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT", "ResNet34_Weights.IMAGENET1K_V1"])
def test_failed_download_says_how_to_give_a_file(offline: None, name: str) -> None:
    with pytest.raises(
        ModelError, match=r"cannot download ResNet34_Weights.IMAGENET1K_V1 .*give the file's path"
    ) as error:
        load_weights(new(), name)
    assert "https://download.pytorch.org/models/resnet34-" in str(error.value)
    assert "\n" not in str(error.value)


def test_name_loads_from_the_cache_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    path = resnet_file(cache, torchvision.models.ResNet34_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    model = new(encoder_width=64)
    load_weights(model, "IMAGENET1K_V1")
    ours, theirs = model.encoder.state_dict(), read(path)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_digest_of_a_file_is_returned(tmp_path: Path) -> None:
    model = UNet(num_filters=1, encoder_width=1)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    assert load_weights(model, str(path)) == sha256_of(path)
