"""Weights that others have trained: torchvision's encoders, and published checkpoints of whole networks."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import unquote

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from saltray.errors import ModelError
from saltray.models.network import IMAGENET_MEAN, Network

_CLASSIFIERS = ("fc.", "classifier.")  # ResNet's and VGG's
_ENCODER_CLASSIFIER = "encoder.fc."  # in published AlbuNets


def load_encoder_weights(model: nn.Module, weights: str) -> None:
    """Give the encoder of `model` the weights of a classifier trained on ImageNet.

    Args:
        model: a network with a `backbone`: AlbuNet or TernausNet.
        weights: a state dict in torchvision's format (the classifier's part is ignored) as a path or as a URI
            (s3://bucket/key, file:///path), ending in .safetensors or as written by `torch.save`; or torchvision's
            name for its own, such as IMAGENET1K_V1 or ResNet34_Weights.IMAGENET1K_V1, which is downloaded.

    Raises:
        ModelError: there are no such weights, they cannot be read or downloaded, or they do not fit.
        ConfigError, StorageError: the URI is none that we know, or the object store refuses it.
    """
    if not isinstance(model, Network) or model.backbone is None:
        raise ModelError(
            f"{type(model).__name__} has no pre-trained encoder, not even {weights!r}; leave weights unset"
        )
    state = _without_prefix(_read(weights, model.backbone), weights)
    encoder = {key.removeprefix("features."): state[key] for key in state if not key.startswith(_CLASSIFIERS)}
    complaint = f"weights {weights!r} do not fit the encoder of {type(model).__name__}"
    _load(model.encoder, encoder, complaint, f"give the state dict of torchvision's {model.backbone}")


def load_checkpoint(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a trained network: one of ours, or a published AlbuNet.

    Raises:
        ModelError: a tensor is missing, unexpected, of another shape, or there twice with different values.
    """
    aliases = model.aliases if isinstance(model, Network) else {}
    _load(
        model,
        normalise_keys(state, aliases),
        f"checkpoint does not fit {type(model).__name__}",
        "build the model as it was trained: architecture, num_filters, encoder_width, is_deconv, classes",
    )


def normalise_keys(state: Mapping[str, Tensor], aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """A checkpoint under our names, each tensor once: no `module.` (DDP's), no aliases, no classifier.

    Args:
        state: name -> tensor.
        aliases: beginning of a second name -> beginning of ours.

    Raises:
        ModelError: an entry is no tensor, or a tensor and its alias differ.
    """
    ours: dict[str, Tensor] = {}
    differing = []
    for key, tensor in _without_prefix(state, "checkpoint").items():
        name = next((new + key.removeprefix(old) for old, new in aliases.items() if key.startswith(old)), key)
        if name.startswith(_ENCODER_CLASSIFIER):
            continue
        twin = ours.setdefault(name, tensor)
        if twin is not tensor and (twin.shape != tensor.shape or not torch.equal(twin, tensor.to(twin))):
            differing.append(key)
    if differing:
        raise ModelError(
            f"checkpoint holds {len(differing)} tensors twice with different values, under {_few(differing)} and the "
            "names these stand for; save the state_dict() of one model as it is"
        )
    return ours


def _without_prefix(state: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{source}: entry {key!r} holds {type(value).__name__}, not a tensor with a name; "
                "give the model's state dict alone"
            )
    wrapped = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in state.items()}


def _load(module: nn.Module, state: Mapping[str, Tensor], complaint: str, remedy: str) -> None:
    expected = module.state_dict()
    faults = {
        # PyTorch before 0.4.1 kept no such counter, and BatchNorm with a momentum does not read it.
        "missing": [key for key in expected if key not in state and not key.endswith(".num_batches_tracked")],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key in state if key in expected and state[key].shape != expected[key].shape],
    }
    found = [f"{len(keys)} {fault} ({_few(keys)})" for fault, keys in faults.items() if keys]
    if found:
        raise ModelError(f"{complaint}: {', '.join(found)}; {remedy}")
    module.load_state_dict(state, strict=False)


def _few(keys: Sequence[str]) -> str:
    return ", ".join([repr(key) for key in keys[:3]] + ["..."] * (len(keys) > 3))


def _read(weights: str, backbone: str) -> Mapping[Any, Any]:
    if "://" in weights:
        return _fetch(weights)
    path = Path(weights).expanduser()
    return _parse(path, weights) if path.is_file() else _download(weights, backbone)


def _fetch(uri: str) -> Mapping[Any, Any]:
    from saltray.storage.names import open_store

    cut = uri.rindex("/") + 1
    folder, name = uri[:cut], unquote(uri[cut:]) if uri.startswith("file:") else uri[cut:]
    with tempfile.TemporaryDirectory(prefix="saltray-") as temporary:
        path = Path(temporary) / name
        open_store(folder).get_file(name, path)
        return _parse(path, uri)


def _parse(path: Path, source: str) -> Mapping[Any, Any]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make these parsers raise almost anything
        # Torch's own words advise to load it unsafely.
        reason = "damaged, or not tensors alone" if isinstance(error, UnpicklingError) else _first_line(error)
        raise ModelError(
            f"cannot read weights {source!r} ({reason}); "
            "save a plain state dict, as .safetensors or by torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(state, Mapping):
        raise ModelError(f"weights {source!r} hold a {type(state).__name__}; save the model's state_dict() instead")
    return state


def _download(name: str, backbone: str) -> Mapping[Any, Any]:
    enum = torchvision.models.get_model_weights(backbone)
    # VGG16's IMAGENET1K_FEATURES want another normalisation than ours.
    known = {key: entry for key, entry in enum.__members__.items() if tuple(entry.transforms().mean) == IMAGENET_MEAN}
    entry = known.get(name.removeprefix(f"{enum.__name__}."))
    if entry is None:
        raise ModelError(
            f"weights {name!r} are neither a file nor torchvision's for {backbone}; "
            f"give a path, an s3:// URI, or one of {', '.join(known)}"
        )
    try:
        state: Mapping[Any, Any] = entry.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except Exception as error:  # refused, cut off, or a damaged file in torch's cache
        raise ModelError(
            f"cannot download {entry!r} ({_first_line(error)}); "
            f"fetch {entry.url} elsewhere and give the file's path or s3:// URI as the weights"
        ) from error
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
