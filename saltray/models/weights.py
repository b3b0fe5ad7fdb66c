"""Load pretrained weights, of a whole network or of its encoder alone."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from saltray.errors import ModelError, one_line
from saltray.models.network import IMAGENET_MEAN, Network
from saltray.storage.files import scratch_folder, sha256_of
from saltray.storage.uri import local_path, open_object

_CLASSIFIERS = ("fc.", "classifier.")
"""Key prefixes of the classifier in torchvision's ResNet and VGG."""
_ENCODER_CLASSIFIER = "encoder.fc."
"""The same in published AlbuNet checkpoints."""


def load_weights(model: Network, weights: str) -> str | None:
    """Load pretrained weights into `model`, in place. The keys of their state dict decide what is loaded:

    - The whole network, from a state dict of `model`'s class or a published AlbuNet checkpoint. The latter may hold the
      encoder as `encoder.*`, under its second names (`conv1.0.*`, `conv2.*`, ...) or both, and the unused classifier
      `encoder.fc`.
    - The encoder alone, from torchvision's state dict of a ResNet-34 or VGG, with or without its classifier. The
      decoder keeps its weights.

    The prefix `module.` of DistributedDataParallel is removed. After an error the model is unchanged.

    Args:
        model: a network with the architecture and widths that the weights were trained with.
        weights: a path or URI (s3://bucket/key, file:///path) of a state dict, ending in .safetensors or as written by
            `torch.save`; or torchvision's name for encoder weights, such as IMAGENET1K_V1 or
            ResNet34_Weights.IMAGENET1K_V1, which are downloaded.

    Returns:
        SHA-256 of the file, in hex; None for a name of torchvision's, which checks its download itself.

    Raises:
        ModelError: the weights do not exist, cannot be read or downloaded, or do not fit the model.
        ConfigError, StorageError: the URI is unsupported, or the object store refuses the request.
    """
    state, digest = _read(weights, model)
    load_state(model, state, weights)
    return digest


def load_state(model: Network, state: Mapping[Any, Any], weights: str) -> None:
    """Load a state dict that was read before, as `load_weights` does.

    Args:
        model: as for `load_weights`.
        state: the state dict.
        weights: where it is from, for messages.

    Raises:
        ModelError: it does not fit the model.
    """
    name, backbone = type(model).__name__, model.backbone
    state = _without_ddp_prefix(state, weights)
    network = _without_aliases(state, model.aliases, weights)
    encoder = {key.removeprefix("features."): state[key] for key in state if not key.startswith(_CLASSIFIERS)}
    if network.keys() & model.state_dict().keys():
        remedy = (
            "build the model with the architecture, num_filters, encoder_width, is_deconv and number of classes that "
            "the weights were trained with"
        )
        _load(model, network, f"weights {weights!r} do not fit {name}", remedy)
    elif backbone is not None and encoder.keys() & model.encoder.state_dict().keys():
        remedy = (
            f"give weights of torchvision's {backbone}, and set encoder_width to the one that they were trained with "
            "(64 for torchvision's own)"
        )
        _load(model.encoder, encoder, f"weights {weights!r} do not fit the encoder of {name}", remedy)
    else:
        found = f"weights {weights!r} are not of {name} (found {_few([repr(key) for key in state]) or 'no tensors'})"
        if backbone is None:
            raise ModelError(
                f"{found}, and {name} has no pretrained encoder; give the state dict of a whole {name}, or no weights"
            )
        raise ModelError(
            f"{found}; give the state dict of a whole {name}, or of torchvision's {backbone} for its encoder"
        )


def _without_ddp_prefix(state: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"weights {source!r} hold an entry {key!r} of type {type(value).__name__}, not named tensors alone; "
                "save the model's state_dict() by itself"
            )
    wrapped = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in state.items()}


def _without_aliases(state: Mapping[str, Tensor], aliases: Mapping[str, str], source: str) -> dict[str, Tensor]:
    """The state dict with each tensor once, under the network's own name, and without the encoder's classifier."""
    own: dict[str, Tensor] = {}
    differing = []
    for key, tensor in state.items():
        name = next((new + key.removeprefix(alias) for alias, new in aliases.items() if key.startswith(alias)), key)
        if name.startswith(_ENCODER_CLASSIFIER):
            continue
        twin = own.setdefault(name, tensor)
        if twin is not tensor and not torch.equal(twin, tensor.to(twin)):
            differing.append(repr(key))
    if differing:
        raise ModelError(
            f"weights {source!r} are inconsistent: {len(differing)} tensors differ from their copies under encoder.* "
            f"({_few(differing)}); save the state_dict() of one model, unchanged"
        )
    return own


def _load(module: nn.Module, state: Mapping[str, Tensor], complaint: str, remedy: str) -> None:
    expected = module.state_dict()
    faults = {
        # PyTorch before 0.4.1 did not store num_batches_tracked, and BatchNorm with a momentum does not read it.
        "missing": [repr(key) for key in expected if key not in state and not key.endswith(".num_batches_tracked")],
        "unexpected": [repr(key) for key in state if key not in expected],
        "of another shape": [
            f"{key!r} {list(state[key].shape)} instead of {list(tensor.shape)}"
            for key, tensor in expected.items()
            if key in state and state[key].shape != tensor.shape
        ],
    }
    found = [f"{len(keys)} {fault} ({_few(keys)})" for fault, keys in faults.items() if keys]
    if found:
        raise ModelError(f"{complaint}: {', '.join(found)}; {remedy}")
    module.load_state_dict(state, strict=False)


def _few(items: Sequence[str]) -> str:
    return ", ".join([*items[:3], *["..."] * (len(items) > 3)])


def _read(weights: str, model: Network) -> tuple[Mapping[Any, Any], str | None]:
    """The state dict, and the digest of its file."""
    if "://" in weights:
        return _fetch(weights)
    path = local_path(weights)
    if os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for a name that is too long)
        return _parse(path, weights), sha256_of(path)
    if model.backbone is None:
        name = type(model).__name__
        raise ModelError(
            f"weights {weights!r} are not a file, and {name} has no pretrained encoder; "
            f"give a path or s3:// URI of the state dict of a whole {name}, or no weights"
        )
    return _download(weights, model.backbone), None


def _fetch(uri: str) -> tuple[Mapping[Any, Any], str]:
    store, name = open_object(uri)
    with scratch_folder() as folder:
        path = folder / name
        store.get_file(name, path)
        return _parse(path, uri), sha256_of(path)


def _parse(path: Path, source: str) -> Mapping[Any, Any]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an untrusted file can make these parsers raise almost any exception
        # torch's own message suggests weights_only=False, which would run code from the file.
        # A parser may quote the whole file, hence the limit.
        reason = "corrupted, or more than tensors" if isinstance(error, UnpicklingError) else one_line(error, 300)
        raise ModelError(
            f"cannot read weights {source!r} ({reason}); "
            "save the state dict alone, as .safetensors or by torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(state, Mapping):
        raise ModelError(f"weights {source!r} are a {type(state).__name__}; save the model's state_dict() instead")
    return state


def _download(name: str, backbone: str) -> Mapping[Any, Any]:
    enum = torchvision.models.get_model_weights(backbone)
    # Without VGG16's IMAGENET1K_FEATURES, which were trained with another normalisation.
    known = {key: entry for key, entry in enum.__members__.items() if tuple(entry.transforms().mean) == IMAGENET_MEAN}
    entry = known.get(name.removeprefix(f"{enum.__name__}."))
    if entry is None:
        raise ModelError(
            f"weights {name!r} are neither a file nor torchvision's name of weights for {backbone}; "
            f"give a path, an s3:// URI, or one of {', '.join(known)}"
        )
    try:
        state: Mapping[Any, Any] = entry.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except Exception as error:  # no connection, a broken one, or a corrupted file in torch's cache
        raise ModelError(
            f"cannot download {entry!r} ({one_line(error, 300)}); "
            f"download {entry.url} by other means, and give the file's path or s3:// URI as the weights"
        ) from error
    return state
