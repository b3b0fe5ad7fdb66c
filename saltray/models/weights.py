"""Load pretrained weights, of a whole network or of its encoder alone."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from saltray.errors import ConfigError, ModelError, NotFoundError, StorageError, one_line
from saltray.models.network import Network
from saltray.models.parts import SETTINGS
from saltray.models.stem import IMAGENET_MEAN, GreyStem
from saltray.storage.files import scratch_folder, sha256_of
from saltray.storage.near import is_there, near_uri
from saltray.storage.uri import local_path, open_object, open_store

_CLASSIFIERS = ("fc.", "classifier.")
"""Key prefixes of the classifier in torchvision's ResNet and VGG."""
_ENCODER_CLASSIFIER = "encoder.fc."
"""The same in published AlbuNet checkpoints."""
SUFFIX = ".safetensors"
log = logging.getLogger(__name__)


def load_weights(model: Network, weights: str) -> str | None:
    """Load pretrained weights into `model`, in place. The keys of their state dict decide what is loaded:

    - The whole network, from a state dict of `model`'s class or a published AlbuNet checkpoint. The latter may hold the
      encoder as `encoder.*`, under its second names (`conv1.0.*`, `conv2.*`, ...) or both, and the unused classifier
      `encoder.fc`.
    - The encoder alone, from torchvision's state dict of a ResNet or VGG, with or without its classifier. The decoder
      keeps its weights.

    The prefix `module.` of DistributedDataParallel is removed. Optional parts of the decoder that the weights of a
    whole network lack keep their own, which is logged; in eval mode they change nothing then. The first convolution of
    a model for one channel takes weights for three, and gives the same output for grey images. After an error the model
    is unchanged.

    Args:
        model: a network with the architecture, encoder and widths that the weights were trained with.
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
        more = ", ".join(SETTINGS[part] for part in _parts(network, without=model.state_dict()))
        remedy = (
            "build the model with the architecture, encoder, num_filters, encoder_width, in_channels, is_deconv, parts "
            f"of the decoder{more and f' ({more})'} and number of classes that the weights were trained with"
        )
        fresh = _parts(model.state_dict(), without=network)
        _load(model, network, f"weights {weights!r} do not fit {name}", remedy, fresh)
        if fresh:
            names = ", ".join(SETTINGS[part] for part in fresh)
            log.warning(
                "weights %r were trained without %s: these parts of the decoder start untrained", weights, names
            )
    elif backbone is not None and encoder.keys() & model.encoder.state_dict().keys():
        remedy = (
            f"give weights of torchvision's {backbone} or set the encoder to theirs, and set encoder_width and "
            "in_channels to what they were trained with (64 and 3 for torchvision's own)"
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
                f"weights {source!r} hold an entry {_few([repr(key)])} of type {type(value).__name__}, not named "
                "tensors alone; save the model's state_dict() by itself"
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


def _parts(state: Mapping[str, Tensor], *, without: Mapping[str, Tensor]) -> list[str]:
    """The optional parts of a decoder, by their names in `parts.SETTINGS`, that one state dict has and another not."""
    keys = {part: {key for key in state if part in key.split(".")} for part in SETTINGS}
    return [part for part, own in keys.items() if own and without.keys().isdisjoint(own)]


def _for_grey(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the weights of a stem for RGB as those of the `GreyStem` of `module`, if it has one."""
    changed = dict(state)
    for name, stem in module.named_modules():
        weight = state.get(f"{name}.weight")
        if isinstance(stem, GreyStem) and weight is not None and weight.ndim == 4 and weight.shape[1] == 3:
            changed[f"{name}.weight"], changed[f"{name}.offset"] = stem.from_rgb(weight)
    return changed


def _load(
    module: nn.Module, state: Mapping[str, Tensor], complaint: str, remedy: str, fresh: Sequence[str] = ()
) -> None:
    """Load all of `state`, which may lack the tensors of the parts `fresh`."""
    expected, state = module.state_dict(), _for_grey(module, state)
    # PyTorch before 0.4.1 did not store num_batches_tracked, and BatchNorm with a momentum does not read it.
    optional = {"num_batches_tracked", *fresh}
    faults = {
        "missing": [repr(key) for key in expected if key not in state and optional.isdisjoint(key.split("."))],
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
    return ", ".join([*(item[:200] for item in items[:3]), *["..."] * (len(items) > 3)])


def _read(weights: str, model: Network) -> tuple[Mapping[Any, Any], str | None]:
    """The state dict, and the digest of its file."""
    if "://" in weights:
        return _fetch(weights)
    path = local_path(weights)
    if os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for a name that is too long)
        return _parse(path, weights), sha256_of(path)
    if model.backbone is None:
        _suggest_file(weights)
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
        try:
            store.get_file(name, path)
        except NotFoundError as error:
            if near := _near_file(uri):
                raise NotFoundError(f"there are no weights at {uri!r}; did you mean {near}?") from error
            raise
        return _parse(path, uri), sha256_of(path)


def _suggest_file(weights: str) -> None:
    """Raise ModelError if a file may have been meant by the path of none."""
    if near := _near_file(weights):
        raise ModelError(f"weights {weights!r} are not a file; did you mean {near}?")


def _near_file(weights: str) -> str | None:
    """The file that may have been meant by a URI of none: one of nearly the same name, or the only one in a folder."""
    with suppress(ConfigError, StorageError):
        near = weights.rstrip("/") if is_there(weights) else near_uri(weights)
        if near is None or open_object(near)[0].exists(open_object(near)[1]):
            return near
        files = [name for name in open_store(near).names() if name.endswith(SUFFIX)]
        return f"{near}/{files[0]}" if len(files) == 1 else None
    return None


def _parse(path: Path, source: str) -> Mapping[Any, Any]:
    try:
        if path.suffix == SUFFIX:
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
        _suggest_file(name)
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
