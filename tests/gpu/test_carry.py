"""What is carried equals what was there."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saltray.data.synthetic import write_dataset

sys.path.insert(0, str(Path(__file__).parent))
from carry import grey, pack_tiles, pinned, repack  # beside this file, which is no package


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_tiles_keep_their_pixels_and_masks(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "tiles", tiles=5, seed=1, test_tiles=0)
    assert pack_tiles(folder, tmp_path / "tiles.zip") == 5
    with zipfile.ZipFile(tmp_path / "tiles.zip") as packed:
        names = packed.namelist()
        assert len(names) == 10
        for name in names:
            there, here = pixels(packed.read(name)), np.asarray(Image.open(folder / name))
            assert (there.dtype, there.ndim) == (np.uint8, 2)
            if "masks" in name:
                np.testing.assert_array_equal(there > 0, here > 0)
            else:
                np.testing.assert_array_equal(there, here if here.ndim == 2 else here[..., 0])


def test_an_image_in_colour_stays_as_it_is(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[0, 0] = 1, 2, 3
    Image.fromarray(colour).save(tmp_path / "a.png")
    assert grey(tmp_path / "a.png", is_mask=False) == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("kind", ["botocore", "other"])
def test_a_wheel_loses_what_is_unused_and_nothing_else(kind: str, tmp_path: Path) -> None:
    wheel, target = tmp_path / f"{kind}-1.0-py3-none-any.whl", tmp_path / "out.whl"
    program = Path("/bin/bash").read_bytes()
    members = {
        f"{kind}/a.py": b"x = 1\n",
        f"{kind}/program": program,
        "botocore/data/ec2/service.json": b"{}",
        "botocore/data/s3/service.json": b"{}",
        f"{kind}-1.0.dist-info/RECORD": b"botocore/data/ec2/service.json,,\nbotocore/data/s3/service.json,,\n",
    }
    with zipfile.ZipFile(wheel, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    repack(wheel, target)
    with zipfile.ZipFile(target) as file:
        lost = {"botocore/data/ec2/service.json"} if kind == "botocore" else set()
        assert set(file.namelist()) == set(members) - lost
        assert file.read(f"{kind}/a.py") == b"x = 1\n"
        recorded = {line.split(b",")[0].decode() for line in file.read(f"{kind}-1.0.dist-info/RECORD").splitlines()}
        assert recorded == {name for name in members if "data" in name} - lost
        (tmp_path / "program").write_bytes(file.read(f"{kind}/program"))
    (tmp_path / "program").chmod(0o755)
    done = subprocess.run([tmp_path / "program", "-c", "echo 1"], capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"1\n", 0), done.stderr


def test_what_is_carried_is_pinned() -> None:
    versions = dict(line.split("==") for line in pinned())
    assert {"ray", "botocore", "pydantic-core"} <= set(versions)
