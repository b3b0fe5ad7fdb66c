"""The ids of sample_submission.csv against the tiles of the test part."""

from pathlib import Path

import pytest

from saltray.data.sample import check_against_sample
from saltray.data.source import SAMPLE, Source
from saltray.data.tables import MAX_BYTES
from saltray.errors import DataError

from .mini import Mini, write_csv


def write_sample(folder: Path, ids: list[str]) -> Source:
    write_csv(folder / SAMPLE, ("id", "rle_mask"), [(tile, "1 1") for tile in ids])
    return Source(str(folder))


def test_ids_that_are_the_samples_in_any_order(folder: Path, mini: Mini) -> None:
    check_against_sample(write_sample(folder, mini.test_ids[::-1]), mini.test_ids)


def test_a_data_set_without_a_sample(any_source_uri: str) -> None:
    check_against_sample(Source(any_source_uri), ["anything"])


@pytest.mark.parametrize(
    ("sample", "tiles", "told"),
    [
        ("abc", "ab", ["1 of its 3 ids has no image (c)"]),
        ("a", "ab", ["1 image is not in it (b)"]),
        ("abcdefg", "axyzw", ["6 of its 7 ids have no image (b, c, d and 3 more)", "4 images", "(w, x, y and 1 more)"]),
    ],
)
def test_ids_that_differ_are_counted_and_some_are_named(
    sample: str, tiles: str, told: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        check_against_sample(write_sample(tmp_path, list(sample)), list(tiles))
    message = str(caught.value)
    assert message.startswith(f"the images are not those of {SAMPLE} in {tmp_path}: ")
    assert message.endswith("give the folder of the images alone as the data set to predict them as they are")
    for part in told:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["", "name,mask\na,1 1\n", "id,rle_mask\na,1 1\na,1 1\n"])
def test_a_sample_that_is_no_table_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / SAMPLE).write_text(content)
    with pytest.raises(DataError, match=f"1 problem in {tmp_path}.*{SAMPLE}"):
        check_against_sample(Source(str(tmp_path)), ["a"])


def test_a_sample_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    (tmp_path / SAMPLE).write_bytes("id;rle_mask\r\na;1 1\r\nb;\r\n".encode("utf-16"))
    check_against_sample(Source(str(tmp_path)), ["a", "b"])


def test_a_sample_in_capitals_counts(tmp_path: Path) -> None:
    write_sample(tmp_path, ["a"])
    (tmp_path / SAMPLE).rename(tmp_path / "Sample_Submission.csv")
    with pytest.raises(DataError, match="1 image is not in it"):
        check_against_sample(Source(str(tmp_path)), ["a", "b"])


def test_a_sample_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / SAMPLE).symlink_to("nowhere")
    with pytest.raises(DataError, match=f"{SAMPLE}: a link that leads nowhere"):
        check_against_sample(Source(str(tmp_path)), ["a"])


def test_a_sample_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / SAMPLE).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="536,870,913 bytes; the limit is"):
        check_against_sample(Source(str(tmp_path)), ["a"])
