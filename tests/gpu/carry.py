"""One folder with all that a GPU machine without a network lacks: `tests/gpu/carry FOLDER [--data DIR]`.

The machine is expected to have Python, torch with CUDA, torchvision, and of saltray's other needs those in EXPECTED;
with `--python 3.11` the wheels are for that version. FOLDER gets the wheels of saltray and of what else it needs, Ray
and botocore without what a training never loads, and with --data the tiles as one zip of grey PNGs, equal pixel by
pixel. That is about 30 MiB of wheels and 22 MiB for 4,000 tiles. A user installs the real wheels: `pip install .`

On the machine, in the root of the repository:

    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site FOLDER/*.whl
    export PYTHONPATH=$PWD:/tmp/site
    tests/gpu/campaign --data FOLDER/tiles.zip --out OUT

`tests/gpu/carry FOLDER --try PYTHON` shows here that the wheels suffice: it installs them for that Python, which has
torch and the rest of EXPECTED, and runs a small demo by them without a network.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
EXPECTED = (
    *("torch", "torchvision", "numpy", "pandas", "pyarrow", "pillow", "matplotlib", "jinja2", "rich", "safetensors"),
    *("lazy-loader", "pyyaml", "protobuf", "packaging", "requests", "filelock", "msgpack", "click", "attrs", "fsspec"),
    *("python-dateutil", "urllib3", "certifi", "idna", "charset-normalizer", "typing-extensions", "six", "pytest"),
)
"""Distributions that a machine for deep learning has; the rest is carried."""
CARRIED = (
    *("ray", "jsonschema", "jsonschema-specifications", "referencing", "rpds-py"),
    *("boto3", "botocore", "s3transfer", "jmespath"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("tyro", "docstring-parser", "typeguard", "tensorboardx"),
)
"""In the versions that pyproject.toml pins."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")
UNUSED = {
    "ray": ("ray/jars/", "ray/rllib/", "ray/llm/", "ray/dashboard/client/", "ray/cpp/", "ray/tune/examples/"),
    "botocore": ("botocore/data/",),
}
"""Left out, by distribution."""
USED = tuple(f"botocore/data/{name}" for name in ("s3/", "sts/", "endpoints", "partitions", "_retry", "sdk-default"))
"""Of those, needed all the same."""
LIMIT = 62
"""MiB that some machines take at once, less the repository itself."""


def pinned() -> Iterator[str]:
    """The carried distributions with their versions."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = dict(line.split("==") for line in settings["tool"]["uv"]["constraint-dependencies"])
    for name in CARRIED:
        yield f"{name}=={versions[name]}"


def download(folder: Path, python: str) -> None:
    """The wheels as they are published."""
    where = [f"--platform={name}_x86_64" for name in PLATFORMS]
    what = ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *where]
    pip("download", "-q", *what, "-d", str(folder), *pinned())
    pip("wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))


def pip(*words: str, python: str = sys.executable) -> None:
    uv_has_no_pip = python == sys.executable and subprocess.run([python, "-m", "pip", "-V"], check=False).returncode
    command = ["uvx", "pip"] if uv_has_no_pip else [python, "-m", "pip"]
    subprocess.run([*command, *words], check=True)


def repack(wheel: Path, target: Path) -> None:
    """The wheel without what is unused, without symbols, and compressed by LZMA, which pip reads as well."""
    dropped = UNUSED.get(wheel.name.split("-")[0], ())
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as sink:
        for item in source.infolist():
            if item.is_dir() or not keeps(item.filename, dropped):
                continue
            data = source.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                data = b"".join(line for line in data.splitlines(True) if keeps(line.decode(), dropped))
            if data.startswith(b"\x7fELF") and len(data) > 2**20:
                data = stripped(data)
            item.compress_type = zipfile.ZIP_LZMA
            sink.writestr(item, data)


def keeps(name: str, dropped: tuple[str, ...]) -> bool:
    """Whether a file of a wheel is carried."""
    return not name.startswith(dropped) or name.startswith(USED)


def stripped(program: bytes) -> bytes:
    """Without symbols, where binutils are here."""
    if shutil.which("strip") is None:
        return program
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program"
        path.write_bytes(program)
        subprocess.run(["strip", "--strip-unneeded", path], check=True)
        return path.read_bytes()


def pack_tiles(data: Path, target: Path) -> int:
    """The training tiles as grey PNGs in a zip; how many."""
    images = next(path for path in (data / "train/images", data / "images") if path.is_dir())
    names = sorted(path.name for path in images.glob("*.png"))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as sink:
        for name in names:
            for folder in (images, images.with_name("masks")):
                sink.writestr(f"train/{folder.name}/{name}", grey(folder / name, is_mask=folder.name == "masks"))
    return len(names)


def grey(path: Path, *, is_mask: bool) -> bytes:
    """The file as an 8-bit grey PNG; as it is, where that would lose something."""
    pixels = np.asarray(Image.open(path))
    if is_mask:
        values = pixels if pixels.ndim == 2 else pixels[..., 0]
        pixels = np.where(values > 0, np.uint8(255), np.uint8(0))
    elif pixels.ndim == 3 and (pixels[..., :1] == pixels[..., :3]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        return path.read_bytes()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def try_out(folder: Path, python: str) -> None:
    """Install the wheels in a folder of their own and run a demo by them, without a network if that can be had."""
    with tempfile.TemporaryDirectory(prefix="carry-") as scratch:
        wheels = [str(path) for path in folder.glob("*.whl")]
        pip(
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--target",
            f"{scratch}/site",
            *wheels,
            python=python,
        )
        demo = [python, "-c", "from saltray.cli.app import main; main()", "demo", "--tiles", "60"]
        apart = ["unshare", "-rn", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
        if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
            print("no network namespaces here: the demo runs with the network", flush=True)
            apart = []
        where = {"PYTHONPATH": f"{scratch}/site", "HOME": scratch}
        subprocess.run([*apart, *demo], check=True, cwd=scratch, env=os.environ | where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="tiles in the Kaggle layout, to be carried")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python")
    parser.add_argument("--try", dest="other", metavar="PYTHON", help="try the wheels out instead")
    options = parser.parse_args()
    if options.other:
        try_out(options.folder, options.other)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        download(Path(scratch), options.python)
        for wheel in Path(scratch).glob("*.whl"):
            repack(wheel, options.folder / wheel.name)
    if options.data:
        print(f"{pack_tiles(options.data, options.folder / 'tiles.zip')} tiles")
    total = 0.0
    for path in sorted(options.folder.iterdir()):
        size = path.stat().st_size / 2**20
        total += size
        print(f"{size:6.1f} MiB  {path.name}")
    print(f"{total:6.1f} MiB{f', more than {LIMIT}: carry the tiles in a second call' * (total > LIMIT)}")
    print(f"expected there: {', '.join(EXPECTED)}")


if __name__ == "__main__":
    main()
