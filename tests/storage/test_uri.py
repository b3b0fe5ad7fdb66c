import subprocess
import sys
from pathlib import Path

import pytest

from saltray.errors import ConfigError
from saltray.storage.folder import FolderStore
from saltray.storage.s3 import S3Store
from saltray.storage.uri import local_path, open_object, open_store


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
        ("", "'' is neither a path nor a URI; use a path"),
        ("gs://bucket/x", "'gs://' is unsupported; use a path"),
        (" s3://bucket/x", "' s3://' is unsupported"),
        ("https://bucket.s3.amazonaws.com/x", "'https://' is unsupported"),
        ("file://host/x", "'file://' is unsupported"),
        # What pathlib.Path makes of a URI, and misspelt ones.
        ("s3:/bucket/x", "s3:... is neither a path nor a URI"),
        ("S3:bucket", "S3:... is neither a path nor a URI"),
        ("file:/tmp/x", "file:... is neither a path nor a URI"),
        ("hdfs:/x", "hdfs:... is neither a path nor a URI"),
        ("C:/data", "C:... is neither a path nor a URI"),
        ("~nobody-of-this-name/x", "begins with the home folder of nobody"),
        ("a\0b", "has control characters"),
        ("file:///a%0Ab", "has control characters"),
        ("s3://", "is not s3://bucket/prefix"),
        ("s3://b", "is not s3://bucket/prefix"),
        ("s3:///x", "is not s3://bucket/prefix"),
        ("s3://bucket//x", "is not s3://bucket/prefix"),
        ("s3://bucket/../x", "is not s3://bucket/prefix"),
        ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint", "is not s3://bucket/prefix"),
        ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mine//x", "is not s3://bucket/prefix"),
        ("s3://arn:aws:iam::123456789012:role/mine", "is not s3://bucket/prefix"),
        ("s3://a bucket/x", "is not s3://bucket/prefix"),
        ("s3://bucket/x?endpoint_override=minio:9000", "holds options; set AWS_ENDPOINT_URL_S3"),
    ],
)
def test_an_unsupported_uri_is_a_config_error(uri: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://AKIAXXXX:top-secret@bucket/prefix", "s3:/AKIAXXXX:top-secret@bucket/prefix"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert "top-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["./s3:/x", "a:b/x", "12:30", "x y"])
def test_a_folder_with_an_odd_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store(name).uri == str(tmp_path / name)


@pytest.mark.parametrize(
    ("uri", "store", "key"),
    [
        ("x.csv", "{here}", "x.csv"),
        ("a/b/x.csv", "{here}/a/b", "x.csv"),
        ("/x.csv", "/", "x.csv"),
        ("~/x.csv", "/home/someone", "x.csv"),
        ("file:///a/with%20blank.csv", "/a", "with blank.csv"),
        ("s3://bucket/x.csv", "s3://bucket", "x.csv"),
        ("S3://bucket/a/b/x%20.csv", "s3://bucket/a/b", "x%20.csv"),
    ],
)
def test_an_object(uri: str, store: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    found, name = open_object(uri)
    assert (found.uri, name) == (store.format(here=tmp_path), key)
    assert open_object(Path("a/x"))[0].uri == f"{tmp_path}/a"


@pytest.mark.parametrize("uri", ["", "a/", "..", "a/.", "~", "s3://bucket", "s3://bucket/", "file:///a%2Fb"])
def test_what_names_no_object(uri: str) -> None:
    with pytest.raises(ConfigError, match="does not name a file"):
        open_object(uri)


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3:/bucket/x", "s3:x", "a\0b", "s3://bucket//x", "~no-such-user/x"])
def test_an_unsupported_uri_is_no_object_either(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_object(uri)
    assert "does not name a file" not in str(caught.value)
    with pytest.raises(ConfigError):
        local_path(uri)


def test_a_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_path("a/b") == local_path(tmp_path / "a/b") == local_path(f"file://{tmp_path}/a/b") == tmp_path / "a/b"
    with pytest.raises(ConfigError, match="s3://bucket/x is not on this machine"):
        local_path("s3://bucket/x")


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
