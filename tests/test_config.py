"""Settings: what is allowed, the messages, YAML back and forth, and the shipped files."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import pytest
import yaml
from conftest import PAPERS

from lmf_multitask.command_line import CommandParser, SettingsOptions
from lmf_multitask.config import (
    build,
    find_config,
    kind_setting,
    merged,
    nested,
    options,
    replaced,
    setting,
    settings,
    to_dict,
)
from lmf_multitask.data.config import DataConfig
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.models.config import ModelConfig
from lmf_multitask.pipeline.settings import (
    RECIPES,
    ExperimentConfig,
    recipe_config,
    settings_from,
    varied_settings,
)
from lmf_multitask.training.config import TrainingConfig

FOLDER = Path(__file__).resolve().parents[1] / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name not in ("search", "ablation"))


def parse(*arguments):
    """What the command line of `train` makes of its arguments."""
    parser = CommandParser(prog="test")
    group = SettingsOptions(parser, ExperimentConfig)
    return group.build(parser.parse_args(arguments))


def value_of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def message_of(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is allowed

WIDTH = ([0, -1, 65537, 1.5, True, None, "8"], [1, 65536])
WIDTH_OR_NONE = ([0, 65537, 2.5, False], [None, 1, 65536])
PROBABILITY = ([-0.1, 1, 1.5, math.nan, None, True], [0, 0.0, 0.99])
AUDIO, TEXT = "model.encoders.audio", "model.encoders.text"
RULES = {
    "data.label_column": ([2, -1, "1"], [None, 0, 1]),
    "data.non_finite": (["drop", None], ["zero", "error"]),
    "data.max_length": ([0, 65537, 1.5], [None, 1, 65536]),
    "data.at_threshold": (["present", None], ["absent", "not_annotated"]),
    "data.labels": ([[], "happy"], [None, ["happy"]]),
    "data.class_column": (["", 1], [None, "x"]),
    "data.split_column": (["", 1], [None, "x"]),
    "data.audio": (["", 1], [None, "x"]),
    "data.video": (["", 1], [None, "x"]),
    "data.text": (["", 1], [None, "x"]),
    "data.feature_root": (["", 1], [None, "x"]),
    "data.group_column": (["", 1], [None, "x"]),
    "data.cache_dir": (["", 3], [None, "x"]),
    f"{AUDIO}.hidden": WIDTH,
    f"{AUDIO}.dropout": PROBABILITY,
    f"{AUDIO}.norm": (["none", None], ["batch", "standard"]),
    f"{AUDIO}.pooling": (["attention", None], ["mean", "mean_std", "max", "last"]),
    f"{TEXT}.hidden": WIDTH,
    f"{TEXT}.state": WIDTH,
    f"{TEXT}.projection": WIDTH_OR_NONE,
    f"{TEXT}.bidirectional": ([0, "yes", None], [True, False]),
    f"{TEXT}.pooling": (["mean", None], ["attention", "last_step", "last_present"]),
    f"{TEXT}.dropout": PROBABILITY,
    f"{TEXT}.step_dropout": PROBABILITY,
    f"{TEXT}.norm": (["batch", None], ["standard", "none"]),
    "model.fusion.kind": (["tensor", None, 3, ["lmf"]], ["lmf"]),
    "model.fusion.rank": WIDTH,
    "model.fusion.dim": WIDTH_OR_NONE,
    "model.fusion.init": (["zeros", None], ["variance", "xavier"]),
    "model.fusion.skip": (["no", 1, None], [True, False]),
    "model.head_dropout": PROBABILITY,
    "model.linear": (["no", 1, None], [True, False]),
    "model.modality_dropout": ([-0.1, 1, "x"], [None, 0, 0.5]),
    "model.modalities": (
        [[], ["smell"], ["audio", "audio"], "audio", None, [["text"]]],
        [["text"], ["audio", "video", "text"]],
    ),
    "training.epochs": ([0, 1.5, None, True], [1, 1000]),
    "training.batch_size": ([0, 1, 2.5], [2]),
    "training.eval_batch_size": ([0, "4"], [1]),
    "training.learning_rate": ([0, -1e-3, 11, math.nan, math.inf, None], [1e-9, 10]),
    "training.factor_learning_rate": ([0, 11, math.nan], [None, 0.1]),
    "training.schedule": (["linear", None], ["constant", "cosine"]),
    "training.weight_decay": ([-1, 11, math.nan, None], [0, 0.5, 10]),
    "training.row_order": (["random", None], ["seeded", "lmf_paddle"]),
    "training.loss_reduction": (["max", None], ["mean", "sum"]),
    "training.joint_loss": ([-0.1, 1.1, None, math.nan], [0, 1, 0.5]),
    "training.class_weights": (["even", None], ["none", "balanced"]),
    "training.focal_gamma": ([-1, 11, None], [0, 2.5]),
    "training.regression_loss": (["l2", None, 1], ["l1", "mse", "huber", "ccc"]),
    "training.standardize_targets": (["yes", 1, None], [True, False]),
    "training.balance_kinds": (["yes", 1, None], [True, False]),
    "training.task_weighting": (["equal", "dynamic", None], ["uniform", "uncertainty"]),
    "training.task_weights": ([{"happy": -1}, {"happy": "much"}, {"happy": 1001}, [1.0], {"happy": 1}], [None]),
    "training.ema_epochs": ([0, -1, 1001, math.nan], [None, 0.5, 3]),
    "training.max_grad_norm": ([0, -1, math.nan, "1"], [None, 0.1]),
    "training.monitor": (["f1", None], ["loss", "uar", "average_precision", "task_metric", "ccc"]),
    "training.patience": ([0, 1.5, True], [None, 1]),
    "training.visualdl": (["yes", 1, None], [True, False]),
    "seed": ([-1, 2**63, 1.5, True, None], [0, 2**63 - 1]),
    "emotions": ([[], "happy", [1]], [None, ["a"]]),
    "tasks": (
        [[], "happy", [1], ["a:magic"], ["a:regression:2:1"], ["../a"]],
        [None, ["a", "b:regression:1:5", "c:above:b"]],
    ),
    "data_path": (["", 3, "a\0b", "\ud800"], [None, "x.pkl"]),
    "output_dir": ([""], [None, "x"]),
    "device": ([None, 0], ["cpu"]),
    "folds": ([0, 1, 101, "", 2.5], [None, 2, 100, "session"]),
    "fold": ([0, "1"], [None]),
    "fold_seed": ([-1, 2**32, None], [0, 5]),
    "stratify": ([[], "happy"], [None, ["happy"]]),
}


@pytest.mark.parametrize("name", RULES)
def test_what_a_setting_may_be(name):
    wrong, right = RULES[name]
    for value in wrong:
        text = message_of(build, ExperimentConfig, nested({name: value}))
        blamed = "training" if name == "training.task_weights" and value == {"happy": 1} else name
        assert text.startswith(blamed), text
        assert " must " in text, text
        assert ", but got " in text, text
    for value in right:
        found = build(ExperimentConfig, nested({name: value}))
        if not name.endswith(".kind"):
            assert value_of(found, name) == value


def test_every_setting_is_in_the_table():
    same = {f"model.encoders.video.{name}" for name in ("hidden", "dropout", "norm", "pooling")}
    every = {option.name for option in options(ExperimentConfig)}
    other_kinds = (
        {name for name in every if name.startswith((f"{AUDIO}.", "model.encoders.video."))} - same - set(RULES)
    )
    assert every - set(RULES) - same - other_kinds == {f"{TEXT}.kind"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.fusion.rank": 0}, "model.fusion.rank must be greater than or equal to 1, but got 0."),
        ({"model.fusion.dim": "x"}, "model.fusion.dim must be a whole number or null, but got 'x'."),
        ({"seed": True}, "seed must be a whole number, but got True."),
        ({"training.visualdl": 1}, "training.visualdl must be true or false, but got 1."),
        ({"training.learning_rate": math.nan}, "training.learning_rate must be a finite number, but got nan."),
        ({"data.non_finite": "drop"}, "data.non_finite must be 'zero' or 'error', but got 'drop'."),
        ({"emotions": "happy"}, "emotions must be a list or null, but got 'happy'."),
        ({"emotions": []}, "emotions must be a list of at least 1 or null, but got []."),
        ({"emotions": ["a", 1]}, "emotions[1] must be text, but got 1."),
        ({"model.modalities": ["text", "text"]}, "model.modalities must name each modality once, but got ['text', 'text']."),
        (
            {"training.task_weights": {"happy": -1}},
            "training.task_weights.happy must be greater than or equal to 0, but got -1.",
        ),
        (
            {"training.task_weights": {"happy": 2.0}},
            "training must have task_weights where task_weighting is fixed, and only there, but got {'happy': 2.0} with uniform.",
        ),
        ({"model": 3}, "model must be settings by name, but got 3. See --help."),
        ({"model.encoders": ["mlp"]}, "model.encoders must be settings by name, but got ['mlp']. See --help."),
        ({"model.fusion": "tfn"}, "model.fusion must be {kind: NAME, ...}, but got 'tfn'. See --help."),
        ({"model.fusion": None}, "model.fusion must be {kind: NAME, ...}, but got None. See --help."),
        (
            {"model.fusion.kind": "tnf"},
            "model.fusion.kind must be one of lmf, tfn, concat, late, but got 'tnf'. Did you mean 'tfn'?",
        ),
        (
            {"model.fusion.kind": "xyz"},
            "model.fusion.kind must be one of lmf, tfn, concat, late, but got 'xyz'. "
            "If a plug-in defines it, add --plugin FILE.py.",
        ),
        ({"model.fusion.rnk": 3}, "unknown setting 'model.fusion.rnk' of the kind lmf. Did you mean 'model.fusion.rank'?"),
        (
            {"model.fusion": {"kind": "tfn", "rank": 4}},
            "unknown setting 'model.fusion.rank' of the kind tfn. Choose one of dim.",
        ),
        (
            {"model.fusion": {"kind": "late", "dim": 4}},
            "unknown setting 'model.fusion.dim' of the kind late. Choose one of none.",
        ),
        ({"sed": 1}, "unknown setting 'sed'. Did you mean 'seed'?"),
        ({"modl": {"a": 1}}, "unknown setting 'modl'. Did you mean 'model'?"),
        ({"rank": 3}, "unknown setting 'rank'. Did you mean 'model.fusion.rank'?"),
        ({"model.fusion_rank": 3}, "unknown setting 'model.fusion_rank'. Did you mean 'model.fusion.rank'?"),
        ({"data": {"colour": 3}}, "unknown setting 'data.colour'. Choose one of label_column, non_finite, max_length, at_threshold, "),
        ({"self": 1}, "unknown setting 'self'."),
        ({"training.monitor": "weighted_f2"}, "training.monitor must be one of loss, task_metric, "),
    ],
)  # fmt: skip
def test_messages(values, message):
    assert message_of(build, ExperimentConfig, nested(values)).startswith(message)


def test_all_problems_are_named_at_once():
    text = message_of(
        build, ExperimentConfig, {"seed": -1, "colour": 1, "training": {"epochs": 0, "batch_size": 1, "patience": 0}}
    )
    for name in ("seed", "'colour'", "training.epochs", "training.batch_size", "training.patience"):
        assert text.count(f"{name} must") + text.count(f"unknown setting {name}") == 1, name


def test_long_values_are_shortened():
    assert len(message_of(build, ExperimentConfig, {"seed": "9" * 10_000, "x" * 10_000: 1})) < 500


def test_python_calls_are_checked_alike():
    assert message_of(lambda: TrainingConfig(epochs=0)).startswith("epochs must be greater than or equal to 1")
    assert ModelConfig(fusion={"kind": "tfn", "dim": 5}).fusion.dim == 5
    config = ModelConfig(encoders={"text": {"state": 7}})
    assert (config.encoders.text.state, config.encoders.text.hidden) == (7, 64)
    assert dataclasses.replace(config, modality_dropout=None).encoders is config.encoders
    with pytest.raises(ConfigError, match="modality_dropout must be"):
        dataclasses.replace(config, modality_dropout=2)
    with pytest.raises(ConfigError, match=r"fusion must be \{kind: NAME, ...\}"):
        ModelConfig(fusion=DataConfig())


def test_every_setting_is_described():
    for option in options(ExperimentConfig):
        assert option.help[0].isalnum(), option.name
        assert not option.help.endswith("."), option.name


# -- kinds


def test_a_setting_of_several_kinds_has_the_default_of_the_default_kind():
    found = {option.name: option for option in options(ExperimentConfig)}
    assert found[f"{AUDIO}.hidden"].default == 32
    assert found["model.encoders.video.hidden"].default == 16
    assert found[f"{TEXT}.hidden"].default == 64
    assert found[f"{TEXT}.kind"].default == "lstm"
    assert found[f"{TEXT}.hidden"].help == "lstm: width of the output; mlp: width of the three layers"
    assert found["model.fusion.dim"].help.startswith("lmf, tfn, concat: width K of the fused vector")
    assert "; late: Late fusion: each modality predicts by itself" in found["model.fusion.kind"].help


def test_another_kind_drops_the_settings_of_the_former():
    base = {"fusion": {"kind": "lmf", "rank": 3, "dim": 5}, "seed": 1}
    assert merged(base, {"fusion": {"kind": "tfn"}}) == {"fusion": {"kind": "tfn"}, "seed": 1}
    assert merged(base, {"fusion": {"kind": "lmf", "dim": None}})["fusion"] == {"kind": "lmf", "rank": 3, "dim": None}
    assert base["fusion"] == {"kind": "lmf", "rank": 3, "dim": 5}
    config = replaced(ExperimentConfig(), {"model.fusion.rank": 3})
    assert config.model.fusion.rank == 3
    # the order of the names does not matter
    for changes in (
        {"model.fusion.dim": 7, "model.fusion.kind": "concat"},
        {"model.fusion.kind": "concat", "model.fusion.dim": 7},
    ):
        assert to_dict(replaced(config, changes))["model"]["fusion"] == {"kind": "concat", "dim": 7}
    text = message_of(replaced, config, {"model.fusion.kind": "concat", "model.fusion.rank": 2})
    assert text.startswith("unknown setting 'model.fusion.rank' of the kind concat.")


def test_a_layer_that_states_the_same_kind_drops_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {fusion: {rank: 3}}\n")
    config = parse("--config", str(tmp_path / "a.yaml"), "--model.fusion.kind", "lmf")
    assert config.model.fusion.rank == 3


def test_dotted_and_nested_names_may_be_mixed():
    given = {"model": {"fusion": {"rank": 3}}, "model.fusion.dim": 5, "seed": 2}
    assert nested(given) == {"model": {"fusion": {"rank": 3, "dim": 5}}, "seed": 2}
    assert given["model"] == {"fusion": {"rank": 3}}


def test_a_new_kind_is_an_entry_of_its_table():
    """In a table of its own, so that no other test sees it."""

    @settings
    class Inner:
        size: int = setting(default=3, help="size", ge=1)

    class Small:
        @settings
        class Settings:
            inner: Inner = setting(default=Inner, help="nested")
            way: Literal["up"] = setting(default="up", help="way")

    class Large:
        @settings
        class Settings:
            way: Literal["down"] = setting(default="down", help="way")

    table = {"small": Small}

    @settings
    class Config:
        part: object = kind_setting(table=lambda: table, default={"kind": "small"}, help="part")

    assert [option.name for option in options(Config)] == ["part.kind", "part.inner.size", "part.way"]
    table["large"] = Large
    found = {option.name: option for option in options(Config)}
    assert found["part.kind"].type == Literal["small", "large"]
    assert found["part.way"].type == Literal["up"] | Literal["down"]
    assert to_dict(build(Config, {"part": {"inner": {"size": 4}}})) == {
        "part": {"kind": "small", "inner": {"size": 4}, "way": "up"}
    }
    assert build(Config, {"part": {"kind": "large"}}).part.way == "down"
    assert message_of(build, Config, {"part": {"inner": {"size": 0}}}).startswith("part.inner.size must be")


def test_kinds_must_have_settings_of_their_own():
    """A subclass that inherits them would be taken for its parent."""

    class First:
        @settings
        class Settings:
            size: int = setting(default=3, help="size")

    class Second(First):
        pass

    table = {"first": First, "second": Second}

    @settings
    class Config:
        part: object = kind_setting(table=lambda: table, default={"kind": "first"}, help="part")

    message = (
        "the kinds first and second must have different Settings, but got the same. Derive a settings class for second."
    )
    assert message_of(build, Config, {"part": {"kind": "second"}}) == message

    @settings
    class Derived(First.Settings):
        depth: int = setting(default=1, help="depth", ge=1)

    Second.Settings = Derived
    found = build(Config, {"part": {"kind": "second", "size": 5}})
    assert to_dict(found) == {"part": {"kind": "second", "size": 5, "depth": 1}}
    assert message_of(build, Config, {"part": {"kind": "second", "depth": 0}}).startswith("part.depth must be")


def test_varied_settings():
    names = varied_settings()
    assert {"model.fusion.kind", "model.encoders.audio.kind", "training.learning_rate", "model.modalities"} <= set(
        names
    )
    assert not {"training.visualdl", "training.eval_batch_size", "seed", "device", "data.max_length"} & set(names)
    assert len(names) == len(set(names))


# -- YAML


def full_config(tmp_path):
    return ExperimentConfig(
        data_path="a b/ä.pkl",
        emotions=["sad", "yes", "1"],
        seed=2**40,
        output_dir=str(tmp_path / "x"),
        device="cpu",
        data=DataConfig(label_column=0, non_finite="error", cache_dir="c", max_length=30),
        model=build(
            ModelConfig,
            {
                "encoders": {"audio": {"kind": "lstm", "projection": None}, "text": {"kind": "mlp", "pooling": "max"}},
                "fusion": {"kind": "tfn", "dim": None},
                "modalities": ["text", "audio"],
            },
        ),
        training=TrainingConfig(
            learning_rate=1e-05,
            weight_decay=0.0,
            patience=None,
            max_grad_norm=2.5,
            monitor="uar",
            task_weighting="fixed",
            task_weights={"sad": 2.0},
        ),
    )


def test_yaml_back_and_forth(tmp_path):
    config = full_config(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert parse("--config", str(path)) == settings_from(path) == config
    assert config.model.modalities == ["audio", "text"]
    assert "--config THIS_FILE" in path.read_text(encoding="utf-8").splitlines()[0]


def test_defaults_need_no_file():
    assert parse() == ExperimentConfig()


def test_options_win_over_files_and_later_files_over_earlier_ones(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 3\nmodel: {fusion: {rank: 5, dim: 7}}\n")
    (tmp_path / "b.yaml").write_text("model: {fusion: {rank: 6}}\n")
    config = parse(
        "--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--emotions", "a", "b",
        "--model.fusion.dim", "null", "--model.modalities", "text", "audio", "--training.task_weighting", "fixed",
        "--training.task_weights", "{a: 2}",
    )  # fmt: skip
    assert (config.seed, config.model.fusion.rank, config.model.fusion.dim) == (3, 6, None)
    assert (config.emotions, config.model.modalities) == (["a", "b"], ["audio", "text"])
    assert config.training.task_weights == {"a": 2}


def test_text_options_stay_text():
    config = parse("--emotions", "1", "yes", "--data_path", "2026", "--output_dir", "1e3")
    assert (config.emotions, config.data_path, config.output_dir) == (["1", "yes"], "2026", "1e3")
    assert parse("--emotions", "null").emotions is None
    assert parse("--emotions", "[a, b]").emotions == ["a", "b"]


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1e-05", 1e-05), ("0.01", 0.01), ("1", 1.0)])
def test_rates_are_numbers_however_they_are_written(tmp_path, text, value):
    """YAML 1.1 takes 1e-3 for text."""
    path = tmp_path / "a.yaml"
    path.write_text(f"training:\n  learning_rate: {text}\n")
    assert parse("--config", str(path)).training.learning_rate == value
    assert parse("--training.learning_rate", text).training.learning_rate == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nseed: 2", "'seed' is given twice."),
        ("model: {fusion: {rank: 1, rank: 2}}", "'rank' is given twice."),
        ("- a", "must hold settings by name, but holds ['a']. See a shipped config."),
        ("", "must hold settings by name, but holds None. See a shipped config."),
        ("a: [", "must be YAML, but while parsing"),
        ("a: &x 1\nb: *x", "it has the alias *x; write the value out"),
        ("seed: " + "[" * 30 + "]" * 30, "it is nested more than 20 levels deep"),
        ("# " + "x" * 100_000, "must have at most 100,000 bytes, but has more"),
        ("seed: !!python/object/apply:os.system ['true']", "must be YAML, but could not determine a constructor"),
        ("seed: 2026-99-99", "must be YAML, but month must be in 1..12"),
        ("1: 2", "unknown setting '1'."),
        ("seed: 2026-01-01", "seed must be a whole number, but got datetime.date(2026, 1, 1)."),
    ],
)
def test_wrong_files(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    found = message_of(parse, "--config", "multitask", "--config", str(path), "--training.epochs", "3")
    assert found.startswith(f"{path}: ")
    assert message in found
    with pytest.raises(RunError, match="a.yaml: must hold the settings of a run, but "):
        settings_from(path)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    assert "a.yaml: must be UTF-8 text, but is not at byte 0" in message_of(parse, "--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sed", "1"], "unknown option '--sed'. Did you mean '--seed'?"),
        (["--emotion", "a"], "unknown option '--emotion'. Did you mean '--emotions'?"),
        (["--model.fusion.rnk", "3"], "unknown option '--model.fusion.rnk'. Did you mean '--model.fusion.rank'?"),
        (["--rank=3"], "unknown option '--rank'. Did you mean '--model.fusion.rank'?"),
        (["--seed", "one"], "seed must be a whole number, but got 'one'."),
        (["--seed", "-1"], "seed must be greater than or equal to 0, but got -1."),
        (["--seed"], "--seed: expected one argument. See --help."),
        (["--seed", "[1"], "the value of an option must be YAML, but got '[1'. Quote it."),
        (["--training.learning_rate", "fast"], "training.learning_rate must be a number, but got 'fast'."),
        (["--data_path", ""], "data_path must be a path in UTF-8 that is not empty, but got ''."),
        (["--model", "3"], "unknown option '--model'."),
        (["--model.fusion.kind", "tnf"], "model.fusion.kind must be one of lmf, tfn, concat, late, but got 'tnf'. Did"),
        (["--config", "nowhere"], "--config must be a YAML file, but nowhere is none. Shipped configs are"),
        (["extra"], "there must be no argument 'extra' here"),
    ],
)
def test_wrong_options(arguments, message):
    assert message_of(parse, *arguments).startswith(message)


# -- the shipped files


def test_configs_are_shipped():
    assert len(CONFIGS) == 12 + 12


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_configs_parse(path):
    name = path.parent.relative_to(FOLDER).as_posix().removeprefix("per_emotion/")
    layer = recipe_config(name, path.stem) if name in RECIPES else yaml.safe_load(path.read_text())
    found = to_dict(build(ExperimentConfig, layer))

    def check(stated, found, name=""):
        for key, value in stated.items():
            if isinstance(value, dict):
                check(value, found[key], f"{name}{key}.")
            else:
                assert found[key] == value, f"{name}{key}"

    check(yaml.safe_load(path.read_text()), found)
    lines = path.read_text().splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert any("Command: " in line for line in header)
    assert any("ublished" in line or "easured" in line for line in header)


def test_multitask_config_states_the_defaults():
    path = FOLDER / "multitask.yaml"
    assert parse("--config", str(path)) == ExperimentConfig()
    stated, defaults = yaml.safe_load(path.read_text()), to_dict(ExperimentConfig())
    assert stated["model"] == defaults["model"]
    unstated = {part: set(defaults[part]) - set(stated[part]) for part in ("data", "training")}
    chosen = {"labels", "class_column", "split_column", "audio", "video", "text", "feature_root", "group_column"}
    assert unstated == {"data": {"cache_dir", *chosen}, "training": {"eval_batch_size", "task_weights", "visualdl"}}


@pytest.mark.parametrize("name", ["multitask", "multitask.yaml", "configs/multitask.yaml", "configs/multitask"])
def test_shipped_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).name == "multitask.yaml"


def test_a_users_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "multitask.yaml").write_text("seed: 9\n")
    assert find_config("multitask.yaml") == Path("multitask.yaml")
    assert parse("--config", "multitask.yaml").seed == 9


@pytest.mark.parametrize("name", ["../setup", "/etc/passwd.yaml", "nothing", "", "configs/../../setup.cfg", "/"])
def test_other_names_are_no_configs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"--config must be a YAML file, but .*is none. Shipped configs are .*multitask"
    ):
        find_config(name)


# -- recipes: FACTS.md, section 3, LMF_Paddle's train.sh and the original's hyperparams.txt

# emotion: audio, video, text hidden (the LSTM's); dropouts; rank, batch, decay, seed; factor and other rate of the original
PUBLISHED = {
    "happy": ((4, 16, 128), (0.3, 0.1, 0.5), 1, 128, 0.002, 2967694878, (0.003, 0.001)),
    "sad": ((8, 4, 128), (0.0, 0.0, 0.0), 4, 64, 0.002, 2290532931, (0.0005, 0.003)),
    "angry": ((8, 4, 64), (0.3, 0.1, 0.15), 8, 64, 0.001, 2528475277, (0.003, 0.0005)),
    "neutral": ((32, 8, 64), (0.2, 0.5, 0.2), 16, 16, 0.002, 3202492277, (0.003, 0.0005)),
}


@pytest.mark.parametrize("recipe", ["lmf_paddle", "paper"])
@pytest.mark.parametrize("emotion", PUBLISHED)
def test_recipes_are_the_published_settings(recipe, emotion):
    (audio, video, state), dropouts, rank, batch, decay, seed, (factor_rate, other_rate) = PUBLISHED[emotion]
    config = build(ExperimentConfig, recipe_config(recipe, emotion))
    encoders, training = config.model.encoders, config.training
    assert (encoders.audio.hidden, encoders.video.hidden, encoders.text.state) == (audio, video, state)
    assert encoders.text.hidden == state // 2
    assert (encoders.audio.dropout, encoders.video.dropout, encoders.text.dropout) == dropouts
    assert (config.model.fusion.rank, config.model.fusion.dim, config.model.fusion.init) == (rank, None, "xavier")
    assert (training.batch_size, training.weight_decay, config.seed) == (batch, decay, seed)
    # LMF_Paddle gives its rates under a key that Paddle does not know: everything learns at 0.001
    rates = (None, 0.001) if recipe == "lmf_paddle" else (factor_rate, other_rate)
    assert (training.factor_learning_rate, training.learning_rate) == rates
    assert (training.epochs, training.patience, training.monitor, training.loss_reduction) == (100, 20, "loss", "sum")
    assert (training.schedule, training.max_grad_norm, training.ema_epochs) == ("constant", None, None)
    papers = to_dict(build(ModelConfig, merged(PAPERS, {"modality_dropout": None})))
    for modality in ("audio", "video", "text"):
        same = ("kind", "norm", "pooling", *(("projection", "step_dropout") if modality == "text" else ()))
        for name in same:
            assert to_dict(config.model)["encoders"][modality][name] == papers["encoders"][modality][name]


@pytest.mark.parametrize("recipe", RECIPES)
def test_other_emotions_have_the_default_of_the_recipe(recipe):
    own, happy = (build(ExperimentConfig, recipe_config(recipe, name)) for name in ("surprised", "HAPPY"))
    assert own.seed == 1
    assert dataclasses.replace(own, seed=happy.seed) == happy
    with pytest.raises(ConfigError, match="the name of a task must consist of"):
        recipe_config(recipe, "../../multitask")


# -- where a run goes


def test_run_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert ExperimentConfig(seed=3).run_directory() == Path("runs/sample-seed3")
    assert ExperimentConfig(data_path="x/iemocap.pkl").run_directory() == Path("runs/iemocap-seed1")
    assert ExperimentConfig(output_dir="~/x").run_directory() == Path("/home/someone/x")
