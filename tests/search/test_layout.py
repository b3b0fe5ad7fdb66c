"""The keys of a search. Searches of earlier versions have them, so none of them may change."""

from saltray.search import layout
from saltray.search.layout import search_folder, trial_folder


def test_keys() -> None:
    assert search_folder("s1") == "searches/s1"
    assert [trial_folder(index) for index in (0, 7, 1000)] == ["trial-000", "trial-007", "trial-1000"]
    assert {name: value for name, value in vars(layout).items() if name.isupper()} == {
        "SEARCHES": "searches",
        "MANIFEST": "manifest.json",
        "TRIALS": "trials.parquet",
        "BEST": "best.json",
        "FIGURE": "search.png",
        "TRIAL": "trial.json",
        "RESULT": "result.json",
        "TRIAL_PREFIX": "trial-",
        "RANGE_TEST": "range-test",
        "RANGE_TEST_NUMBERS": "range-test.json",
        "RANGE_TEST_FIGURE": "range-test.png",
    }
