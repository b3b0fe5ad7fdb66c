import subprocess
import sys
from pathlib import Path

import pytest

from saltray.errors import ConfigError
from saltray.storage.folder import FolderStore
from saltray.storage.s3 import S3Store
from saltray.storage.uri import open_store


def test_the_uri_of_a_folder_is_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert open_store("a/../b/").uri == f"{tmp_path}/b"
    assert open_store(f"file://{tmp_path}/with%20blank").uri == f"{tmp_path}/with blank"
    assert open_store("~/store").uri == "/home/someone/store"
    assert isinstance(open_store("a"), FolderStore)
    assert list(tmp_path.iterdir()) == []  # nothing was created


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket--use1-az4--x-s3/a", "s3://bucket--use1-az4--x-s3/a"),
        ("s3://mine-abc-s3alias/a", "s3://mine-abc-s3alias/a"),
        (
            "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mine",
            "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mine",
        ),
        (
            "s3://arn:aws:s3::123456789012:accesspoint/m.mrap/a/b/",
            "s3://arn:aws:s3::123456789012:accesspoint/m.mrap/a/b",
        ),
    ],
)
def test_s3(uri: str, expected: str) -> None:
    store = open_store(uri)
    assert isinstance(store, S3Store)
    assert store.uri == expected


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("", "store '' is unsupported; use a folder"),
        ("gs://bucket/x", "store 'gs://' is unsupported; use a folder"),
        ("https://bucket.s3.amazonaws.com/x", "store 'https://' is unsupported"),
        ("file://host/x", "store 'file://' is unsupported"),
        ("s3://", "is not s3://bucket/prefix"),
        ("s3://b", "is not s3://bucket/prefix"),
        ("s3:///x", "is not s3://bucket/prefix"),
        ("s3://bucket//x", "is not s3://bucket/prefix"),
        ("s3://bucket/../x", "is not s3://bucket/prefix"),
        ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint", "is not s3://bucket/prefix"),
        ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mine//x", "is not s3://bucket/prefix"),
        ("s3://arn:aws:iam::123456789012:role/mine", "is not s3://bucket/prefix"),
        ("a\0b", "store 'a\\x00b' is unsupported"),
        ("s3://a bucket/x", "is not s3://bucket/prefix"),
        ("s3://bucket/x?endpoint_override=minio:9000", "holds options; set AWS_ENDPOINT_URL_S3"),
    ],
)
def test_an_unsupported_uri_is_a_config_error(uri: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="credentials") as caught:
        open_store("s3://AKIAXXXX:top-secret@bucket/prefix")
    assert "top-secret" not in str(caught.value)


@pytest.mark.parametrize(("uri", "loads_boto3"), [("{folder}", False), ("s3://bucket", True)])
def test_only_s3_loads_boto3(uri: str, loads_boto3: bool, tmp_path: Path) -> None:
    code = (
        "import pickle, sys; from saltray.storage.uri import open_store\n"
        "store = pickle.loads(pickle.dumps(open_store(sys.argv[1]).sub('a')))\n"
        "print('boto3' in sys.modules)"
    )
    command = [sys.executable, "-c", code, uri.format(folder=tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loads_boto3)
