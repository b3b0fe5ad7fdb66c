"""Synthetic seismic tiles.

Each is simulated from a small geological model. A log of acoustic impedance is mapped to a stratigraphic
coordinate that is tilted, folded, faulted and dragged up beside the salt; a salt body replaces part of it; and a
migration-like filter turns impedance into reflections. Salt is therefore visible as in field data: by the strong
reflection at its edge and by missing layers inside it, but not by a grey level of its own.
"""

import hashlib
import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Part = Literal["train", "test"]
Kind = Literal["blank", "empty", "vertical", "tiny", "salt"]

SIDE = 101
"""Height and width of a whole tile, in pixels."""
FEW = 10_000
"""Whole tiles that may have ids as short as those of the TGS data."""
SHARES: dict[Kind, float] = {"blank": 0.02, "empty": 0.37, "vertical": 0.03, "tiny": 0.015, "salt": 0.565}
"""Share of each kind of tile. blank: all black. empty: no salt. vertical: labelled by whole columns. tiny: 1-10 px."""

# The model is larger than the tile, so that the periodic FFT wraps around outside the tile.
_GRID = 144
_FIRST = (_GRID - SIDE) // 2
_TILE = (slice(_FIRST, _FIRST + SIDE), slice(_FIRST, _FIRST + SIDE))
_Z, _X = np.mgrid[:_GRID, :_GRID] - (_GRID - 1) / 2.0  # pixels from the centre, depth downwards
_KZ = np.fft.fftfreq(_GRID)[:, None]  # cycles per pixel
_KX = np.fft.rfftfreq(_GRID)[None, :]
_K = np.maximum(np.hypot(_KZ, _KX), 0.5 / _GRID)


class SynthTile(NamedTuple):
    """One tile: its id, image [H, W] uint8 grey, mask [H, W] uint8 of 0 and 1, and depth in feet."""

    id: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    depth: int


def draw_tile(index: int, *, seed: int = 0, part: Part = "train", noise: float = 1.0, size: int = SIDE) -> SynthTile:
    """Tile `index` of a part. It depends only on the arguments.

    Args:
        index: from 0 on.
        seed: 0 or more.
        part: of the data set.
        noise: as for `write_dataset`.
        size: height and width in pixels; smaller tiles are cut from whole ones, as many as these hold.
    """
    drawing, cut = divmod(index, cuts(size))
    whole = _draw(drawing, seed, part, noise)
    if size == SIDE:
        return whole
    row, column = divmod(cut, SIDE // size)
    inside = (slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size))
    name = cut_id(whole.id, cut)
    return SynthTile(name, whole.image[inside], whole.mask[inside], whole.depth)


def cuts(size: int) -> int:
    """The tiles of this size that are cut from a whole one."""
    return (SIDE // size) ** 2


def whole_id(drawing: int, seed: int, part: Part) -> str:
    """The id of a whole tile: as long as in the TGS data, or longer where so short ones would coincide."""
    length = 10 if drawing < FEW else 16
    return hashlib.sha256(f"{seed}/{part}/{drawing}".encode()).hexdigest()[:length]


def cut_id(whole: str, cut: int) -> str:
    """The id of a tile that is cut from a whole one. Those of one drawing follow each other."""
    return f"{whole}-{cut:05d}"


@lru_cache(maxsize=1)  # of which small tiles are cut one after another
def _draw(index: int, seed: int, part: Part, noise: float) -> SynthTile:
    rng = np.random.default_rng([seed, ("train", "test").index(part), index])
    name = whole_id(index, seed, part)
    depth = int(rng.integers(51, 960))
    kind = _kind(index, seed)
    if kind == "blank":
        blank = np.zeros((SIDE, SIDE), np.uint8)
        return SynthTile(name, blank, blank, depth)
    wavelength = float(np.exp(rng.uniform(math.log(7), math.log(24))))
    salt, mask = _salt(rng, kind)
    impedance = _sediments(rng, wavelength, salt)
    inside = np.clip(salt + 0.5, 0, 1)  # anti-aliased: `salt` is nearly a distance in pixels
    impedance += inside * (_salt_interior(rng, wavelength, noise) - impedance)
    return SynthTile(name, _develop(rng, _migrate(rng, impedance, wavelength), noise), mask, depth)


def _kind(index: int, seed: int) -> Kind:
    """The kind of a tile, by a golden-ratio sequence: any run of tiles has the shares to within a tile or two."""
    position = (0.5 + 0.3819660112501051 * seed + 0.6180339887498949 * index) % 1.0
    for kind, share in SHARES.items():
        if position < share:
            return kind
        position -= share
    return "salt"


def _field(rng: np.random.Generator, length: float, stretch: float = 1.0) -> Floats:
    """A smooth Gaussian random field of unit variance; correlation length in pixels, `stretch` times as long in x."""
    columns = min(_KX.size, 1 + int(0.6 * _GRID / (length * stretch)))  # the spectrum is nearly zero beyond
    real, imaginary = rng.standard_normal((2, _GRID, columns))
    envelope = np.exp(-2 * (math.pi * length) ** 2 * (_KZ**2 + (stretch * _KX[:, :columns]) ** 2))
    field: Floats = np.fft.irfft2((real + 1j * imaginary) * envelope, s=(_GRID, _GRID))
    field -= field.mean()
    field /= field.std()
    return field


def _salt(rng: np.random.Generator, kind: Kind) -> tuple[Floats, NDArray[np.uint8]]:
    """Level-set function of the salt body, about the distance to its edge in pixels (positive inside), and its mask."""
    if kind == "empty":
        return np.full((_GRID, _GRID), -1e3), np.zeros((SIDE, SIDE), np.uint8)
    body = _body(rng, upright=kind == "vertical")
    tile = body[_TILE]
    if kind == "vertical":
        columns = tile.mean(axis=0)
        level = np.sort(columns)[rng.integers(5, SIDE - 5)]
        mask = np.broadcast_to(columns >= level, tile.shape)
    else:
        largest = 0.995 * tile.size
        pixels = rng.integers(1, 11) if kind == "tiny" else int(np.clip(rng.beta(0.75, 1.05) * tile.size, 12, largest))
        level = np.sort(tile, axis=None)[-pixels]
        mask = tile >= level
    return body - level, mask.astype(np.uint8)


def _body(rng: np.random.Generator, *, upright: bool) -> Floats:
    """A level-set function whose contours are salt shapes with rough edges; the caller chooses the contour."""
    shape = "flank" if upright else str(rng.choice(["flank", "dome", "blob", "sheet"], p=[0.4, 0.3, 0.15, 0.15]))
    widest = 1.4 if shape in ("flank", "blob") else 0.7
    tilt = rng.choice([-1, 1]) * math.pi / 2 + rng.normal(0, 0.05) if upright else rng.uniform(-widest, widest)
    along = _X * math.cos(tilt) - _Z * math.sin(tilt) + rng.uniform(-30, 30)
    down = _X * math.sin(tilt) + _Z * math.cos(tilt)
    body: Floats
    if shape == "flank":
        body = down - rng.normal(0, 0.004) * along**2
    elif shape == "dome":
        body = down - rng.uniform(0.2, 1.5) * (np.hypot(along, 25) - 25)
    elif shape == "blob":
        body = -np.hypot(along * rng.uniform(0.5, 1), down + rng.uniform(-40, 40))
    else:
        body = -np.abs(down + rng.uniform(-25, 25) + rng.normal(0, 0.003) * along**2)
    return body + rng.uniform(2, 7) * _field(rng, 12) + rng.uniform(0, 1.6) * _field(rng, 3)


def _sediments(rng: np.random.Generator, wavelength: float, salt: Floats) -> Floats:
    """Impedance of the layers around the salt."""
    layers = _log(rng, wavelength, _stratigraphy(rng, salt))
    if rng.random() < 0.15:  # an angular unconformity: younger layers on the eroded edges of older ones
        base = rng.uniform(-30, 30) + rng.normal(0, 0.15) * _X + 4 * _field(rng, 25)
        layers = np.where(base > _Z, _log(rng, wavelength, _stratigraphy(rng, salt)), layers)
    chaos = np.exp(rng.normal(-1.2, 0.7)) * _field(rng, 1, stretch=3)
    faded: Floats = layers * np.exp(0.5 * _field(rng, 20)) + chaos
    return faded


def _stratigraphy(rng: np.random.Generator, salt: Floats) -> Floats:
    """Stratigraphic depth of each pixel, constant along a layer. Layers are tilted, folded, faulted and dragged up."""
    dip = np.clip(rng.normal(0, 0.35), -1.1, 1.1)
    depth: Floats = _Z * math.cos(dip) + _X * math.sin(dip)
    depth += rng.uniform(0, 7) * _field(rng, rng.uniform(14, 30)) + rng.uniform(0, 0.8) * _field(rng, 4)
    for _ in range(rng.poisson(0.7)):
        plane = _X - rng.uniform(-50, 50) + rng.normal(0, 0.6) * _Z + rng.normal(0, 0.003) * _Z**2
        depth += rng.uniform(2, 12) * rng.choice([-1, 1]) / (1 + np.exp(-np.clip(2 * plane, -50, 50)))
    reach = rng.uniform(6, 25)
    depth += rng.uniform(0, 1.3) * reach * np.exp(np.minimum(salt, 0) / reach)
    return depth


def _log(rng: np.random.Generator, wavelength: float, depth: Floats) -> Floats:
    """Impedance at stratigraphic depths: beds of random thickness, a few of them much harder or softer."""
    thickness = wavelength * rng.uniform(0.1, 0.35)
    tops = np.cumsum(rng.exponential(thickness, 2 + int(3 * _GRID / thickness)) + 0.5)
    hardness = rng.standard_normal(len(tops)) * np.exp(rng.uniform(0.2, 1) * rng.standard_normal(len(tops)))
    return np.interp(depth, tops - tops[len(tops) // 2], hardness)


def _salt_interior(rng: np.random.Generator, wavelength: float, noise: float) -> Floats:
    """Impedance of salt: hard and nearly uniform, with weak chaos and ghosts of other dips as migration noise."""
    ghosts = _log(rng, wavelength, _stratigraphy(rng, np.full((_GRID, _GRID), -1e3)))
    chaos = np.exp(rng.normal(-1.4, 0.7)) * _field(rng, 1, stretch=2)
    hardness = rng.uniform(1.0, 6.0) * np.exp(0.25 * _field(rng, 14))
    interior: Floats = hardness + noise * (np.exp(rng.normal(-1.7, 0.7)) * ghosts + chaos)
    return interior


def _migrate(rng: np.random.Generator, impedance: Floats, wavelength: float) -> Floats:
    """Reflections of unit variance over the tile: a Ricker wavelet at each interface, weaker at steep dips.

    In the wave-number domain: the Ricker spectrum in |k|, the phase of a derivative (zero-phase at a step), and an
    illumination that decreases with the angle between k and a direction near the vertical.
    """
    look, aperture = rng.normal(0, 0.2), rng.uniform(0.3, 1.5)
    cosine = (_KZ * math.cos(look) + _KX * math.sin(look)) / _K
    ratio = (_K * wavelength) ** 2
    response = 1j * np.sign(cosine) * np.abs(cosine) ** aperture * ratio * np.exp(1 - ratio)
    section: Floats = np.fft.irfft2(np.fft.rfft2(impedance) * response, s=impedance.shape)
    section /= section[_TILE].std()
    return section


def _develop(rng: np.random.Generator, section: Floats, noise: float) -> NDArray[np.uint8]:
    """Grey levels of the tile: uneven gain, recording noise, a slow drift, then brightness and contrast."""
    section = section * np.exp(0.25 * _field(rng, 30)) + 0.15 * _field(rng, 18)
    section = (section + noise * rng.uniform(0, 0.3) * _field(rng, 1.1))[_TILE]
    limit = rng.uniform(2.5, 4)  # amplitudes are compressed, as for display, before they are clipped
    section = limit * np.tanh((section - section.mean()) / section.std() / limit)
    grey: Floats = rng.normal(0.48, 0.075) + np.exp(rng.normal(math.log(0.125), 0.3)) * section
    return np.clip(np.rint(255 * grey), 0, 255).astype(np.uint8)
