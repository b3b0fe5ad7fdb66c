"""Settings from a file: what they mean, and what a wrong one is told."""

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import BUCKET
from samples import DIGEST, ensemble_manifest

import saltray
from saltray.commands.load_config import SettingsFile
from saltray.config import (
    ClusterConfig,
    Config,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    SearchConfig,
    TrainConfig,
    choice,
    loguniform,
    uniform,
)
from saltray.errors import ConfigError, NotFoundError, SaltrayError
from saltray.records import to_record
from saltray.runs.records import PretrainManifest, RunManifest
from saltray.storage.uri import open_store

JOB = """
data = "tiles"
store = "s3://bucket/salt"
workers_per_fold = 2

[search]
trials = 4
folds = [0, 1]
name = "s7"
prune = false
seed = 3
epochs = 12

[search.space]
optim.lr = "log:1e-5:1e-2"
"train.batch-size" = [16, 32]

[train]
epochs = 100
batch-size = 64
sync_batchnorm = false

[optim]
clip_norm = 1
"""
CONFIG = Config(
    data="tiles",
    store="s3://bucket/salt",
    train=TrainConfig(epochs=100, batch_size=64, sync_batchnorm=False),
    optim=OptimConfig(clip_norm=1.0),
    cluster=ClusterConfig(workers_per_fold=2),
)
SEARCH = SearchConfig(
    trials=4,
    folds=(0, 1),
    name="s7",
    prune=False,
    seed=3,
    epochs=12,
    space={"optim.lr": loguniform(1e-5, 1e-2), "train.batch_size": choice([16, 32])},
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name the file as it was given."""
    monkeypatch.chdir(tmp_path)


def write(text: str | bytes, name: str = "job.toml") -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def load_both(uri: str) -> tuple[Config, SearchConfig]:
    return saltray.load_config(uri), saltray.load_search_config(uri)


def test_a_file_has_a_configuration_and_a_search() -> None:
    config, search = load_both(write(JOB))
    assert (config, search) == (CONFIG, SEARCH)
    assert type(config.optim.clip_norm) is float  # 1 and 1.0 would be different runs


def test_a_file_may_be_json_such_as_a_stored_configuration() -> None:
    config = replace(CONFIG, run="r7", model=ModelConfig(architecture="unet", weights=None))
    record = to_record(config) | {"search": {"concurrent": None, "epochs": None, "space": {"optim": {"lr": [0.1]}}}}
    loaded, search = load_both(write(json.dumps(record), "job.json"))
    assert loaded == config
    assert search == SearchConfig(space={"optim.lr": choice([0.1])})


def test_what_a_file_leaves_out_has_its_default() -> None:
    assert load_both(write("data = 'd'")) == (Config(data="d"), SearchConfig())
    assert saltray.load_search_config(write("")) == SearchConfig()


def test_what_a_file_leaves_out_has_the_value_of_its_recipe() -> None:
    given = saltray.load_config(write("recipe = 'blog'\ndata = 'd'\n[train]\nepochs = 3"))
    blog = saltray.recipes.blog(data="d")
    assert given == replace(blog, train=replace(blog.train, epochs=3))
    assert saltray.load_config(write(json.dumps(to_record(given)), "job.json")) == given
    with pytest.raises(ConfigError, match="there is no recipe 'blogg'; there are blog, fast, best"):
        saltray.load_config(write("recipe = 'blogg'\ndata = 'd'"))
    with pytest.raises(ConfigError, match="recipe is 3"):
        saltray.load_config(write("recipe = 3\ndata = 'd'"))


def test_a_file_may_have_a_pretraining() -> None:
    uri = write(f"{JOB}\n[pretrain]\nname = 'p7'\nhidden = 0.5")
    assert load_both(uri) == (CONFIG, SEARCH)
    assert saltray.load_pretrain_config(uri) == PretrainConfig(name="p7", hidden=0.5)
    assert saltray.load_pretrain_config(write("data = 'd'")) == PretrainConfig()
    with pytest.raises(
        ConfigError, match=r"job.toml: pretrain.patches .*`saltray pretrain --help-all` lists all settings"
    ):
        saltray.load_pretrain_config(write("[pretrain]\npatches = 3"))


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_file_in_s3(s3_server: str, kind: str) -> None:
    folder = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    text = JOB if kind == "toml" else json.dumps(to_record(CONFIG))
    open_store(folder).put(f"job.{kind}", text.encode())
    assert saltray.load_config(f"{folder}/job.{kind}") == CONFIG
    with pytest.raises(NotFoundError, match=f"{folder}/none.{kind}"):
        saltray.load_config(f"{folder}/none.{kind}")
    open_store(folder).put(f"bad.{kind}", b"\xff")
    with pytest.raises(ConfigError, match=f"{folder}/bad.{kind} is not {kind.upper()}"):
        saltray.load_config(f"{folder}/bad.{kind}")


@pytest.mark.parametrize("kind", ["toml", "json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_in_any_encoding_of_unicode_that_says_so(kind: str, encoding: str, tmp_path: Path) -> None:
    text = {"toml": "data = 'K\xf6ln'", "json": '{"data": "K\xf6ln"}'}[kind]
    path = tmp_path / f"job.{kind}"
    path.write_text(text, encoding=encoding)
    assert saltray.load_config(str(path)) == Config(data="K\xf6ln")
    for data, what in ((text.encode("latin-1"), "UTF-8 at byte"), (text.encode("utf-16")[:-1], "UTF-16.* at byte")):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=f"is not {kind.upper()}: no {what} .*; save it in UTF-8"):
            saltray.load_config(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "gpus_per_worker = 0.5\nmax-failures = 0",
        "gpus-per-worker = 0.5\n[cluster]\nmax_failures = 0",
        "[cluster]\ngpus_per_worker = 0.5\nmax-failures = 0",
        "cluster.gpus-per-worker = 0.5\ncluster.max_failures = 0",
    ],
)
def test_hardware_is_at_the_top_or_in_a_table(text: str) -> None:
    config = saltray.load_config(write(f"data = 'd'\n{text}"))
    assert config.cluster == ClusterConfig(gpus_per_worker=0.5, max_failures=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.lr = 'log:1e-5:1e-2'", {"optim.lr": loguniform(1e-5, 1e-2)}),
        ("'optim.lr' = 'lin:0.1:1'", {"optim.lr": uniform(0.1, 1)}),
        ("optim.lr = '0.1,1'", {"optim.lr": choice([0.1, 1.0])}),
        ("optim.lr = [0.1, 1]", {"optim.lr": choice([0.1, 1.0])}),
        ("optim.lr = 0.00123456789", {"optim.lr": choice([0.00123456789])}),
        ("model.is-deconv = [true, false]", {"model.is_deconv": choice([True, False])}),
        ("model.is_deconv = false", {"model.is_deconv": choice([False])}),
        (
            "optim = {lr = [0.1], optimizer = ['adam']}",
            {"optim.lr": choice([0.1]), "optim.optimizer": choice(["adam"])},
        ),
    ],
)
def test_what_to_search_is_text_or_a_list(text: str, expected: dict[str, Any]) -> None:
    space = saltray.load_search_config(write(f"[search.space]\n{text}")).space
    assert space == expected
    for field, values in expected.items():
        if hasattr(values, "values"):  # 1 and 1.0 and True are equal
            assert [type(value) for value in space[field].values] == [type(value) for value in values.values]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[train]\nepoch = 5", "train.epoch is unknown; did you mean train.epochs?"),
        ("[trian]\nepochs = 5", "trian is unknown; did you mean train?"),
        ("epochs = 5", "epochs is unknown; did you mean train.epochs?"),
        ("qqqq = 5", "qqqq is unknown"),
        ("config = 'x.toml'", "config is unknown"),
        ("train = 5", "train is 5; it should be an object"),
        ("folds = [0]", "folds is [0]; it should be an object"),
        ("cluster = 2", "cluster is 2; make it a table of names and values"),
        ("cluster = 2\nworkers_per_fold = 2", "cluster is 2; make it a table of names and values"),
        ("[train]\nepochs = 'ten'", 'train.epochs is "ten"; it should be a valid integer'),
        ("[train]\nepochs = 1.5", "train.epochs is 1.5; it should be a valid integer"),
        ("[train]\nepochs = true", "train.epochs is true; it should be a valid integer"),
        ("[train]\nepochs = 0", "train.epochs is 0; use 1 or more"),
        (
            "[train]\nbatch-size = 9\n[cluster]\nworkers-per-fold = 2",
            "train.batch_size 9 is not divisible by the number of workers, 2",
        ),
        ("[optim]\nlr = '1e-3'", 'optim.lr is "1e-3"; it should be a valid number'),
        ("[optim]\nlr = nan", "optim.lr is NaN; it should be a finite number"),
        ("[train]\nsync_batchnorm = 1", "train.sync_batchnorm is 1; it should be a valid boolean"),
        ("[model]\nweights = 3", "model.weights is 3; it should be a valid string"),
        ("[optim]\noptimizer = 'sgd'", "optim.optimizer is \"sgd\"; it should be 'adam' or 'adamw'"),
        ("run = 2026-01-02", 'run is {"date": "2026-01-02"}; it should be a valid string'),
        ("run = '../r1'", "run '../r1' is not a plain name"),
        ("workers_per_fold = 1\n[cluster]\nworkers_per_fold = 2", "workers_per_fold is given twice, at the top and in"),
        ("workers_per_fold = 1\n[cluster]\nworkers-per-fold = 2", "workers_per_fold is given twice, at the top and in"),
        ("[train]\nbatch-size = 1\nbatch_size = 2", "batch_size is given twice; keep one of them"),
    ],
)
def test_a_wrong_setting_is_named(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        saltray.load_config(write(f"data = 'd'\n{text}"))
    assert str(caught.value).startswith(f"job.toml: {expected}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search = 3", "search is 3; make it a table of names and values"),
        ("search = ['optim.lr']", 'search is ["optim.lr"]; make it a table of names and values'),
        ("[search]\ntrial = 5", "search.trial is unknown; did you mean trials?"),
        ("[search]\ntrials = 'x'", 'search.trials is "x"; it should be a valid integer'),
        ("[search]\ntrials = 0", "search.trials is 0; use 1 or more"),
        ("[search]\nfolds = 0", "search.folds is 0; it should be a valid array"),
        ("[search]\nfolds = ['a']", 'search.folds.0 is "a"; it should be a valid integer'),
        ("[search]\nfolds = [0, 0]", "search.folds 0, 0 lists one twice"),
        ("[search]\nsampler = 'bayes'", "search.sampler is \"bayes\"; it should be 'quasirandom' or 'tpe'"),
        ("[search]\nspace = 'optim.lr'", 'search.space is "optim.lr"; make it a table of names and values'),
        ("[search.space]\noptim.lrr = [1]", "there is no field 'optim.lrr' to search; did you mean optim.lr?"),
        ("[search.space]\noptim.lr = []", "search.space optim.lr: a choice has no values"),
        ("[search.space]\noptim.lr = ''", "search.space optim.lr has no values"),
        ("[search.space]\noptim.lr = 'log:1e-5'", "search.space optim.lr=log:1e-5 is not log:LOW:HIGH"),
        ("[search.space]\noptim.lr = ['1e-3']", 'search.space optim.lr: "1e-3" is not a number'),
        ("[search.space]\ntrain.batch_size = [8.5]", "search.space train.batch_size: 8.5 is not an integer"),
        ("[search.space]\n'optim.lr' = [1]\noptim.lr = [2]", "search.space.optim.lr is given twice"),
    ],
)
def test_a_wrong_setting_of_a_search_is_named(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        saltray.load_search_config(write(text))
    assert str(caught.value).startswith(f"job.toml: {expected}")
    assert "\n" not in str(caught.value)


def test_the_search_makes_no_difference_to_the_configuration() -> None:
    assert saltray.load_config(write("data = 'd'\n[search]\nthis = 'is not checked'")) == Config(data="d")


def test_a_configuration_names_its_data() -> None:
    with pytest.raises(ConfigError, match="^job.toml: data is missing; `saltray tune --help-all` lists all settings$"):
        saltray.load_config(write("run = 'r1'"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("job.yaml", "run: r1", "job.yaml is neither a .toml nor a .json file, nor STORE/runs/NAME"),
        ("job", "run: r1", "job is neither a .toml nor a .json file, nor STORE/runs/NAME"),
        ("job.toml", "[train", "job.toml is not TOML: "),
        ("job.toml", "run = 'a'\nrun = 'b'", "job.toml is not TOML: "),
        ("job.toml", b"\xff", "job.toml is not TOML: "),
        ("job.json", "{", "job.json is not JSON: "),
        ("job.json", b"\xff", "job.json is not JSON: "),
        ("job.json", '{"run": "a", "run": "b"}', "job.json is not JSON: run is given twice; correct it"),
        ("job.json", '{"train": {"epochs": 1, "epochs": 2}}', "job.json is not JSON: epochs is given twice"),
        ("job.json", "[]", "job.json is []; make it a table of names and values"),
        ("job.json", "[" * 100_000, "job.json is not JSON: "),
        ("job.toml", f"{'a.' * 5_000}b = 1", "job.toml is not TOML: "),
        ("job.toml", f"data = {'[' * 400}{']' * 400}", "job.toml: "),
    ],
)
def test_a_file_that_cannot_be_parsed(name: str, text: str | bytes, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        saltray.load_config(write(text, name))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    for uri in ("none.toml", f"{tmp_path}/none.toml"):
        with pytest.raises(NotFoundError, match=f"{tmp_path}/none.toml"):
            load_both(uri)
    write("", "job.toml")
    with pytest.raises(NotFoundError, match=r"^there is no file .*/jbo.toml; did you mean job\.toml\?$"):
        load_both("jbo.toml")


def test_a_pretraining_that_may_have_been_meant_is_named(tmp_path: Path) -> None:
    open_store(str(tmp_path)).put("pretrained/p1/manifest.json", b"{}")
    with pytest.raises(NotFoundError, match=f"^no pretraining p2 in {tmp_path}; there are p1; did you mean p1"):
        saltray.load_config(f"{tmp_path}/pretrained/p2")


def test_a_byte_order_mark_is_no_part_of_a_file() -> None:
    assert load_both(write(b"\xef\xbb\xbf" + JOB.encode()))[0] == CONFIG
    assert saltray.load_config(write(b'\xef\xbb\xbf{"data": "d"}', "job.json")) == Config(data="d")


@pytest.mark.parametrize(
    ("text", "name", "fault"),
    [
        ("a." * 300 + "a = 1", "job.toml", "not TOML: a name has more than 200 dots"),
        ("a = " + "[" * 10_000, "job.toml", "not TOML: "),
        ("a = " + "{a = " * 10_000, "job.toml", "not TOML: "),
        ("[" * 10_000, "job.json", "not JSON: nested too deeply"),
        ("#" * 300_000, "job.toml", "more than 262,144 bytes"),
        ("[search]\nspace = " + "[" * 150 + "]" * 150, "job.toml", "search.space is "),
    ],
)
def test_a_file_beyond_all_limits_is_refused(text: str, name: str, fault: str) -> None:
    with pytest.raises(SaltrayError, match=fault) as caught:
        load_both(write(f'data = "d"\n{text}' if name == "job.toml" else text, name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


DOTS = "a." * 201


@pytest.mark.parametrize(
    "text",
    [
        "#" + "." * 201,
        "# " + DOTS,
        "run = 'r' # it's \" " + DOTS,
        "store = 'a" + DOTS + "'",
        'store = "\\"' + DOTS + '"',
        'store = """\\"""a\n' + DOTS + '"""',
        "store = '''a\n" + DOTS + "'''",
        "[search.space]\noptim.lr = [" + ", ".join(f"0.{n}" for n in range(1, 220)) + "]",
    ],
)
def test_only_the_dots_of_names_are_limited(text: str) -> None:
    assert saltray.load_config(write(f"data = 'd'\n{text}")).data == "d"


@pytest.mark.parametrize(
    "text",
    [
        DOTS + "a = 1",
        "[" + "a . " * 201 + "a]",
        "b = {c = 1, " + DOTS + "a = 1}",
        '"a\'b".' * 201 + "a = 1",
        "'a#\"'." * 201 + "a = 1",
        '"\\"".' * 201 + "a = 1",
        'b = {c = """x"""", ' + DOTS + "a = 1}",
        "b = {c = '''x'''', " + DOTS + "a = 1}",
    ],
)
def test_the_dots_of_every_name_are_limited(text: str) -> None:
    with pytest.raises(ConfigError, match=r"job\.toml is not TOML: a name has more than 200 dots; correct it"):
        saltray.load_config(write(f"data = 'd'\n{text}"))


# A run's own settings


STORED = replace(
    CONFIG, run="r7", recipe="best-0", store="elsewhere", model=ModelConfig(architecture="unet"), data="datasets/d"
)
"""By a version of a recipe that is no longer there, in a store that has moved."""


@pytest.fixture
def moved() -> str:
    """A store with a run, a pretraining and two versions of an ensemble."""
    fields: dict[str, Any] = {"identity": DIGEST, "dataset": DIGEST, "provenance": {}}
    root = open_store("moved")
    root.put_record("runs/r7/manifest.json", RunManifest(run="r7", config=STORED, **fields))
    pretrain = PretrainManifest(
        name="p7", config=STORED, pretrain=PretrainConfig(name="p7", patch=8), tiles=9, **fields
    )
    root.put_record("pretrained/p7/manifest.json", pretrain)
    for number in (1, 2):
        trained = replace(STORED, train=replace(STORED.train, epochs=number))
        manifest = ensemble_manifest(name="e", version=f"v{number}", run="r7", config=trained)
        root.put_record(f"ensembles/e/v{number}/manifest.json", manifest)
    return "moved"


@pytest.mark.parametrize(
    ("place", "epochs"),
    [
        ("runs/r7", 100),
        ("runs/r7/manifest.json", 100),
        ("pretrained/p7", 100),
        ("ensembles/e", 2),
        ("ensembles/e/latest", 2),
        ("ensembles/e/v1", 1),
        ("ensembles/e/v1/manifest.json", 1),
    ],
)
@pytest.mark.parametrize("form", ["moved/{}", "{}", "{here}/moved/{}/"])
def test_a_manifest_has_all_settings(
    moved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, epochs: int, form: str
) -> None:
    if form == "{}":
        monkeypatch.chdir(moved)
    uri = form.format(place, here=tmp_path)
    store = {"{}": ".", "moved/{}": "moved"}.get(form, f"{tmp_path}/moved")
    config = saltray.load_config(uri)
    assert config == replace(STORED, store=store, train=replace(STORED.train, epochs=epochs))
    assert saltray.load_search_config(uri) == SearchConfig()
    patch = 8 if "pretrained" in place else PretrainConfig.patch
    assert saltray.load_pretrain_config(uri).patch == patch


def test_a_run_of_s3_has_its_settings_too(s3_server: str) -> None:
    store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    manifest = RunManifest(run="r7", config=STORED, identity=DIGEST, dataset=DIGEST, provenance={})
    open_store(store).put_record("runs/r7/manifest.json", manifest)
    assert saltray.load_config(f"{store}/runs/r7") == replace(STORED, store=store)


def test_a_manifest_that_is_not_there(moved: str) -> None:
    for uri, named in (
        ("moved/runs/r8", "no run r8 in .*moved"),
        ("moved/ensembles/f", "no complete ensemble at moved/ensembles/f"),
        ("moved/pretrained/p8", "no pretraining p8 in .*moved; there are p7"),
    ):
        with pytest.raises(SaltrayError, match=named):
            saltray.load_config(uri)


def test_a_recipe_would_change_nothing_of_a_manifest(moved: str) -> None:
    with pytest.raises(ConfigError, match="^moved/runs/r7 gives all settings, .*; leave --recipe out$"):
        SettingsFile.read("moved/runs/r7").as_config(Config, "best")


@pytest.mark.parametrize("folder", ["runs", "pretrained", "x/ensembles"])
def test_a_file_in_a_folder_of_such_a_name_is_a_file(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    assert saltray.load_config(write("data = 'd'", f"{folder}/job.toml")) == Config(data="d")
    assert saltray.load_config(write('{"data": "d"}', f"{folder}/manifest.json")) == Config(data="d")
