"""The keys of ensembles, and version numbers."""

import pytest

from saltray.ensemble.layout import ensemble_prefix, member_key, version_name, version_number, version_prefix


def test_keys() -> None:
    assert ensemble_prefix("r1") == "ensembles/r1"
    assert version_prefix("r1", "v3") == "ensembles/r1/v3"
    assert member_key(4) == "fold-4.safetensors"
    assert member_key(4, 2) == "fold-4-snapshot-2.safetensors"


@pytest.mark.parametrize("number", [1, 9, 10, 123])
def test_a_version_is_named_by_its_number(number: int) -> None:
    assert version_name(number) == f"v{number}"
    assert version_number(version_name(number)) == number


@pytest.mark.parametrize("text", ["", "v", "v0", "v01", "V1", "1", "v1a", "av1", "v-1", "v1\n", "latest"])
def test_other_names_are_not_versions(text: str) -> None:
    assert version_number(text) == 0
