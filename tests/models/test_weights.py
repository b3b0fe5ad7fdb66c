"""Published checkpoints and torchvision's encoder weights, in every form that people keep them in."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from saltray.errors import ModelError, StorageError
from saltray.models.albunet import AlbuNet
from saltray.models.network import Network
from saltray.models.ternausnet import TernausNet
from saltray.models.unet import UNet
from saltray.models.weights import load_checkpoint, load_encoder_weights, normalise_keys

State = dict[str, Tensor]
MODULES = {
    "conv1.0": "conv1",
    "conv1.1": "bn1",
    "conv2": "layer1",
    "conv3": "layer2",
    "conv4": "layer3",
    "conv5": "layer4",
}


def published(model: AlbuNet) -> State:
    """The state dict as the published class has it: the encoder also under second names, and the unused fc."""
    state = dict(model.state_dict())
    for alias, name in MODULES.items():
        for key, tensor in getattr(model.encoder, name).state_dict().items():
            state[f"{alias}.{key}"] = tensor
    return {**state, "encoder.fc.weight": torch.zeros(1000, 32), "encoder.fc.bias": torch.zeros(1000)}


FORMS: dict[str, Callable[[State], State]] = {
    "as published": lambda state: state,
    "from DDP": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "copies": lambda state: {key: tensor.clone() for key, tensor in state.items()},
    "without encoder": lambda state: {key: t for key, t in state.items() if not key.startswith("encoder.")},
    "without aliases": lambda state: {key: t for key, t in state.items() if not key.startswith("conv")},
    "without fc": lambda state: {key: t for key, t in state.items() if ".fc." not in key},
    "before 0.4.1": lambda state: {key: t for key, t in state.items() if "num_batches" not in key},
}


def outputs(model: nn.Module) -> Tensor:
    images = torch.linspace(0, 1, 64 * 64).view(1, 1, 64, 64)
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize("form", FORMS)
def test_published_checkpoint_loads(thin: AlbuNet, form: str) -> None:
    state = published(thin)
    assert len(state) == 462
    fresh = AlbuNet(num_filters=3, encoder_width=4)
    load_checkpoint(fresh, FORMS[form](state))
    assert torch.equal(outputs(fresh), outputs(thin))


def test_normalise_keys_keeps_each_tensor_once(thin: AlbuNet) -> None:
    state = normalise_keys(FORMS["from DDP"](published(thin)), AlbuNet.aliases)
    assert set(state) == set(thin.state_dict())


@pytest.mark.parametrize("architecture", [TernausNet, UNet])
def test_our_own_checkpoints_load(architecture: Callable[..., Network]) -> None:
    trained, fresh = (architecture(num_filters=3, encoder_width=4) for _ in range(2))
    assert not torch.equal(outputs(fresh), outputs(trained))
    load_checkpoint(fresh, trained.state_dict())
    assert torch.equal(outputs(fresh), outputs(trained))


def spoilt(state: State, key: str, tensor: Tensor | None) -> State:
    return {**state, key: tensor} if tensor is not None else {k: t for k, t in state.items() if k != key}


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("final.bias", None, r"1 missing \('final.bias'\)"),
        ("extra.bias", torch.zeros(1), r"1 unexpected \('extra.bias'\)"),
        ("final.weight", torch.zeros(2, 3, 1, 1), r"1 of another shape \('final.weight'\)"),
        ("conv1.1.bias", torch.full((4,), 9.0), "1 tensors twice with different values, under 'conv1.1.bias'"),
        ("conv1.1.bias", torch.zeros(5), "1 tensors twice with different values, under 'conv1.1.bias'"),
    ],
)
def test_unfit_checkpoint_is_refused_and_changes_nothing(
    thin: AlbuNet, key: str, tensor: Tensor | None, words: str
) -> None:
    state = spoilt(published(thin), key, tensor)
    fresh = AlbuNet(num_filters=3, encoder_width=4)
    before = outputs(fresh)
    with pytest.raises(ModelError, match=words) as error:
        load_checkpoint(fresh, state)
    assert "\n" not in str(error.value)
    assert torch.equal(outputs(fresh), before)


def test_only_the_first_few_keys_are_named(thin: AlbuNet) -> None:
    with pytest.raises(
        ModelError, match=r"AlbuNet: 180 missing \('encoder.conv1.weight', .*, \.\.\.\); build"
    ) as error:
        load_checkpoint(thin, {key: t for key, t in thin.state_dict().items() if not key.startswith("encoder.")})
    assert len(str(error.value)) < 300


def test_training_state_around_the_weights_is_refused(thin: AlbuNet) -> None:
    with pytest.raises(ModelError, match=r"entry 'model' holds OrderedDict.*state dict alone"):
        load_checkpoint(thin, {"model": thin.state_dict(), "epoch": 3})  # type: ignore[dict-item]


def resnet34_file(folder: Path, name: str, *, fc: bool = True) -> Path:
    torch.manual_seed(1)
    return save(folder / name, torchvision.models.resnet34(weights=None).state_dict(), "" if fc else "fc.")


def save(path: Path, state: State, without: str) -> Path:
    kept = {key: tensor for key, tensor in state.items() if not (without and key.startswith(without))}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(kept, path)
    else:
        torch.save(kept, path)
    return path


@pytest.mark.parametrize(("name", "fc"), [("r.pth", True), ("r.pt", False), ("r.safetensors", True)])
def test_resnet34_weights_load_into_albunet(tmp_path: Path, name: str, fc: bool) -> None:
    path = resnet34_file(tmp_path, name, fc=fc)
    model = AlbuNet(num_filters=3)
    before = outputs(model)
    load_encoder_weights(model, str(path))
    assert not torch.equal(outputs(model), before)
    theirs = torchvision.models.resnet34(weights=None)
    theirs.load_state_dict({**theirs.state_dict(), **read(path)})
    ours = model.encoder.state_dict()
    assert all(torch.equal(ours[key], t) for key, t in theirs.state_dict().items() if not key.startswith("fc."))


def read(path: Path) -> State:
    return safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def test_weights_load_from_a_uri(tmp_path: Path) -> None:
    path = resnet34_file(tmp_path, "resnet 34.safetensors")
    model = AlbuNet(num_filters=3)
    load_encoder_weights(model, path.as_uri())
    assert torch.equal(model.encoder.state_dict()["conv1.weight"], read(path)["conv1.weight"])


def test_weights_missing_at_a_uri_are_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        load_encoder_weights(AlbuNet(num_filters=3, encoder_width=4), f"file://{tmp_path}/absent.pth")


@pytest.mark.parametrize("depth", [11, 16])
def test_vgg_weights_load_into_ternausnet(tmp_path: Path, depth: int) -> None:
    trained = TernausNet(depth, num_filters=3).encoder.state_dict()
    state = {f"features.{key}": tensor for key, tensor in trained.items()} | {"classifier.0.bias": torch.zeros(4096)}
    path = save(tmp_path / "vgg.pth", state, "")
    model = TernausNet(depth, num_filters=3)
    before = outputs(model)
    load_encoder_weights(model, str(path))
    assert not torch.equal(outputs(model), before)
    assert all(torch.equal(tensor, trained[key]) for key, tensor in model.encoder.state_dict().items())


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = resnet34_file(tmp_path, "r.pth")
    with pytest.raises(
        ModelError, match=r"r\.pth' do not fit the encoder of TernausNet: 16 missing .*torchvision's vgg11"
    ):
        load_encoder_weights(TernausNet(11, num_filters=3), str(path))
    with pytest.raises(ModelError, match="UNet has no pre-trained encoder"):
        load_encoder_weights(UNet(num_filters=3, encoder_width=4), str(path))
    with pytest.raises(ModelError, match=r"of another shape .*torchvision's resnet34"):
        load_encoder_weights(AlbuNet(num_filters=3, encoder_width=4), str(path))


class Bomb:
    """What a malicious pickle would hold."""

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
        load_encoder_weights(AlbuNet(num_filters=3, encoder_width=4), name)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()


def test_file_of_one_tensor_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "r.pth")
    with pytest.raises(ModelError, match=r"hold a Tensor; save the model's state_dict"):
        load_encoder_weights(AlbuNet(num_filters=3, encoder_width=4), str(tmp_path / "r.pth"))


@pytest.mark.parametrize("name", ["IMAGENET1K_V9", "VGG16_Weights.IMAGENET1K_V1", "missing/resnet34.pth", "."])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ModelError, match=f"'{name}' are neither a file nor torchvision's for resnet34.*IMAGENET1K_V1"):
        load_encoder_weights(AlbuNet(num_filters=3, encoder_width=4), name)


def test_weights_for_another_normalisation_are_not_offered() -> None:
    with pytest.raises(ModelError, match=r"neither a file .* or one of IMAGENET1K_V1, DEFAULT$"):
        load_encoder_weights(TernausNet(16, num_filters=3, encoder_width=4), "IMAGENET1K_FEATURES")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a proxy that refuses at once wherever the tests run."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT", "ResNet34_Weights.IMAGENET1K_V1"])
def test_refused_download_says_how_to_give_a_file(offline: None, name: str) -> None:
    with pytest.raises(
        ModelError, match=r"cannot download ResNet34_Weights.IMAGENET1K_V1 .*give the file's path"
    ) as error:
        load_encoder_weights(AlbuNet(num_filters=3, encoder_width=4), name)
    assert "https://download.pytorch.org/models/resnet34-" in str(error.value)
    assert "\n" not in str(error.value)


def test_torchvision_s_name_loads_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    path = resnet34_file(cache, torchvision.models.ResNet34_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    model = AlbuNet(num_filters=3)
    load_encoder_weights(model, "IMAGENET1K_V1")
    assert torch.equal(model.encoder.state_dict()["layer4.2.bn2.weight"], read(path)["layer4.2.bn2.weight"])
    assert torch.equal(model.encoder.state_dict()["conv1.weight"], read(path)["conv1.weight"])
