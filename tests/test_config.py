"""Settings: every rule's message, YAML back and forth, and the shipped files."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml

from lmf_multitask.command_line import CommandParser, add_experiment_options, experiment_from, with_found_configs
from lmf_multitask.config import DataConfig, ExperimentConfig, ModelConfig, TrainingConfig, find_config
from lmf_multitask.errors import ConfigError

CONFIGS = sorted(
    path
    for path in (Path(__file__).resolve().parents[1] / "configs").rglob("*.yaml")
    if path.parent.name not in ("search", "ablation")
)


def parse(*arguments):
    """What the command line of `train` makes of its arguments."""
    parser = CommandParser()
    add_experiment_options(parser)
    return experiment_from(parser, parser.parse_args(with_found_configs(arguments)))


# -- rules

WIDTH = "a whole number from 1 to 65536"
RULES = [
    (DataConfig, "label_column", [2, -1, "1"], [None, 0, 1], "data.label_column must be 0, 1 or null"),
    (DataConfig, "non_finite", ["drop", None], ["zero", "error"], "data.non_finite must be zero or error"),
    *(
        (ModelConfig, name, [0, -1, 65537, 1.0, True, None, "8"], [1, 65536], f"model.{name} must be {WIDTH}")
        for name in ("audio_hidden", "video_hidden", "text_lstm", "text_hidden", "fusion_rank")
    ),
    (ModelConfig, "fusion_dim", [0, 65537, 2.0, False], [None, 1, 65536], f"model.fusion_dim must be {WIDTH} or null"),
    (
        ModelConfig,
        "factor_init",
        ["zeros", None],
        ["variance", "xavier"],
        "model.factor_init must be variance or xavier",
    ),
    (
        ModelConfig,
        "fusion",
        ["tensor", None],
        ["lmf", "tfn", "concat", "late"],
        "model.fusion must be lmf, tfn, concat or late",
    ),
    *(
        (ModelConfig, name, ["end", None], values, f"model.{name} must be {', '.join(values[:-1])} or {values[-1]}")
        for name, values in (
            ("input_norm", ["batch", "standard"]),
            ("text_pooling", ["last_step", "last_word", "attention"]),
            ("sharing", ["fusion", "gates", "encoders"]),
        )
    ),
    (
        ModelConfig,
        "text_bidirectional",
        [0, "yes", None],
        [True, False],
        "model.text_bidirectional must be true or false",
    ),
    *(
        (
            ModelConfig,
            name,
            [0, 1.5, True, "4", 65_537],
            [None, 1, 65_536],
            f"model.{name} must be a whole number from 1 to 65536 or null",
        )
        for name in ("text_projection", "head_hidden")
    ),
    (ModelConfig, "word_dropout", [-0.1, 1, None], [0, 0.5], "model.word_dropout must be at least 0 and below 1"),
    (
        ModelConfig,
        "modality_dropout",
        [-0.1, 1, "x"],
        [None, 0, 0.5],
        "model.modality_dropout must be at least 0 and below 1",
    ),
    (
        TrainingConfig,
        "schedule",
        ["linear", None],
        ["constant", "cosine"],
        "training.schedule must be one of constant, cosine",
    ),
    (TrainingConfig, "joint_loss", [-0.1, 1.1, None, math.nan], [0, 1, 0.5], "training.joint_loss must be from 0 to 1"),
    (
        TrainingConfig,
        "class_weights",
        ["even", None],
        ["none", "balanced"],
        "training.class_weights must be one of none, balanced",
    ),
    (TrainingConfig, "focal_gamma", [-1, 11, None], [0, 2.5], "training.focal_gamma must be from 0 to 10"),
    (
        TrainingConfig,
        "weight_averaging",
        [0, -1, 1001, math.nan],
        [None, 0.5, 3],
        "training.weight_averaging must be above 0 and at most 1000, or null",
    ),
    (
        TrainingConfig,
        "task_weighting",
        ["equal", None],
        ["uniform", "uncertainty", "dynamic"],
        "training.task_weighting must be one of uniform, fixed, uncertainty, dynamic",
    ),
    (
        TrainingConfig,
        "task_weights",
        [{"happy": -1}, {"happy": "much"}, [1.0]],
        [None],
        "training.task_weights must be emotion: number from 0 to 1000, or null",
    ),
    (
        ModelConfig,
        "modalities",
        [[], ["smell"], ["audio", "audio"], "audio", None],
        [["text"], ["audio", "video", "text"]],
        "model.modalities must be one or more of audio, video, text, each once",
    ),
    *(
        (
            ModelConfig,
            name,
            [-0.1, 1, 1.5, math.nan, None, True],
            [0, 0.0, 0.99],
            f"model.{name} must be at least 0 and below 1",
        )
        for name in ("audio_dropout", "video_dropout", "text_dropout")
    ),
    (TrainingConfig, "epochs", [0, 1.5, None, True], [1, 1000], "training.epochs must be a whole number of at least 1"),
    (TrainingConfig, "batch_size", [0, 1, 2.0], [2], "training.batch_size must be a whole number of at least 2"),
    (TrainingConfig, "eval_batch_size", [0, "4"], [1], "training.eval_batch_size must be a whole number of at least 1"),
    (
        TrainingConfig,
        "learning_rate",
        [0, -1e-3, 11, math.nan, math.inf, None],
        [1e-9, 10],
        "training.learning_rate must be above 0 and at most 10",
    ),
    (
        TrainingConfig,
        "factor_learning_rate",
        [0, 11, math.nan],
        [None, 0.1],
        "training.factor_learning_rate must be above 0 and at most 10",
    ),
    (
        TrainingConfig,
        "weight_decay",
        [-1, 11, math.nan, None],
        [0, 0.5, 10],
        "training.weight_decay must be from 0 to 10",
    ),
    (
        TrainingConfig,
        "loss_reduction",
        ["max", None],
        ["mean", "sum"],
        "training.loss_reduction must be one of mean, sum",
    ),
    (
        TrainingConfig,
        "max_grad_norm",
        [0, -1, math.nan, "1"],
        [None, 0.1],
        "training.max_grad_norm must be above 0 or null",
    ),
    (
        TrainingConfig,
        "monitor",
        ["f1", None],
        ["loss", "uar"],
        "training.monitor must be one of loss, weighted_f1, positive_f1, accuracy, uar, auroc, average_precision",
    ),
    (
        TrainingConfig,
        "patience",
        [0, 1.5, True],
        [None, 1],
        "training.patience must be a whole number of at least 1 or null",
    ),
    (TrainingConfig, "visualdl", ["yes", 1, None], [True, False], "training.visualdl must be one of true, false"),
    (
        ExperimentConfig,
        "seed",
        [-1, 2**63, 1.0, True, None],
        [0, 2**63 - 1],
        "seed must be a whole number from 0 to 2^63 - 1",
    ),
    (
        ExperimentConfig,
        "emotions",
        [[], "happy", [1]],
        [None, ["a"]],
        "emotions must be a list of one or more names, or null",
    ),
    (ExperimentConfig, "data_path", ["", 3], [None, "x.pkl"], "data_path must be a path in UTF-8 or null"),
    (ExperimentConfig, "output_dir", [""], [None, "x"], "output_dir must be a path in UTF-8 or null"),
    (ExperimentConfig, "device", [None, 0], ["cpu"], "device must be auto, cpu, gpu or gpu:NUMBER"),
]


@pytest.mark.parametrize(
    ("kind", "name", "wrong", "right", "message"), RULES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_rules(kind, name, wrong, right, message):
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            kind(**{name: value})
        assert str(caught.value) == f"{message}, but got {value!r}."
    for value in right:
        assert getattr(kind(**{name: value}), name) == value


@pytest.mark.parametrize("kind", [DataConfig, ModelConfig])
def test_every_setting_has_a_rule(kind):
    ruled = {name for owner, name, *_ in RULES if owner is kind}
    assert ruled | {"cache_dir"} >= {field.name for field in dataclasses.fields(kind)}


def test_all_broken_rules_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(epochs=0, batch_size=1, patience=0)
    text = str(caught.value)
    assert [text.count(name) for name in ("training.epochs", "training.batch_size", "training.patience")] == [1, 1, 1]
    assert "\n" not in text


def test_every_setting_is_described():
    for kind in (DataConfig, ModelConfig, TrainingConfig, ExperimentConfig):
        for field in dataclasses.fields(kind):
            assert re.search(rf"^ +{field.name}: \S", kind.__doc__, re.MULTILINE), f"{kind.__name__}.{field.name}"


# -- YAML


def test_yaml_back_and_forth(tmp_path):
    config = ExperimentConfig(
        data_path="a b/ä.pkl",
        emotions=["sad", "yes", "1"],
        seed=2**40,
        output_dir=str(tmp_path / "x"),
        device="cpu",
        data=DataConfig(label_column=0, non_finite="error", cache_dir="c"),
        model=ModelConfig(fusion_dim=None, audio_dropout=0.0, factor_init="xavier"),
        training=TrainingConfig(learning_rate=1e-05, weight_decay=0.0, patience=None, max_grad_norm=2.5, monitor="uar"),
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert parse("--config", str(path)) == config
    assert "--config THIS_FILE" in path.read_text(encoding="utf-8").splitlines()[0]


def test_defaults_need_no_file():
    assert parse() == ExperimentConfig()


def test_options_win_over_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\nmodel: {fusion_rank: 5, fusion_dim: 7}\n")
    config = parse(
        "--config", str(path), "--model.fusion_rank", "2", "--emotions", "a", "b", "--model.fusion_dim", "null"
    )
    assert (config.seed, config.model.fusion_rank, config.model.fusion_dim, config.emotions) == (3, 2, None, ["a", "b"])


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1e-05", 1e-05), ("0.01", 0.01), ("1", 1.0)])
def test_rates_are_numbers_however_they_are_written(tmp_path, text, value):
    """YAML 1.1 takes 1e-3 for text."""
    path = tmp_path / "a.yaml"
    path.write_text(f"training:\n  learning_rate: {text}\n")
    assert parse("--config", str(path)).training.learning_rate == value
    assert parse("--training.learning_rate", text).training.learning_rate == value


def wrong(capsys, *arguments):
    """The one line with which the arguments are refused."""
    try:
        parse(*arguments)
    except ConfigError as error:
        return str(error)
    except SystemExit as stop:
        assert stop.code == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        return text.removeprefix("error: ").strip()
    raise AssertionError("not refused")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sed: 1", "unknown setting 'sed'. Did you mean 'seed'?"),
        ("modl: {a: 1}", "unknown setting 'modl.a'. Did you mean 'model'?"),
        ("model: {fusion_rnk: 3}", "unknown setting 'model.fusion_rnk'. Did you mean 'model.fusion_rank'?"),
        ("fusion_rank: 3", "unknown setting 'fusion_rank'. Did you mean 'model.fusion_rank'?"),
        ("model: {fusion_rank: many}", "model.fusion_rank must be a whole number, but got many."),
        ("model: {fusion_rank: 1.5}", "model.fusion_rank must be a whole number, but got 1.5."),
        ("model: {fusion_dim: x}", "model.fusion_dim must be a whole number or null, but got x."),
        ("training: {patience: x}", "training.patience must be a whole number or null, but got x."),
        ("training: {visualdl: maybe}", "training.visualdl must be true or false, but got maybe."),
        ("data: {non_finite: drop}", "data.non_finite must be one of 'zero', 'error', but got drop."),
        ("training: {epochs: 0}", "training.epochs must be a whole number of at least 1, but got 0."),
        ("model: 3", "model must hold settings by name, but got 3. See --help."),
        ("seed: 1\nseed: 2", "'seed' is given twice."),
        ("model: {fusion_rank: 1, fusion_rank: 2}", "'fusion_rank' is given twice."),
        ("emotions: happy", "emotions must be a list of names, but got 'happy'. Write [a, b]."),
        ("- a", "must hold settings by name, but holds \"['a']\". See a shipped config."),
        ("", "must hold settings by name, but holds 'None'. See a shipped config."),
        ("a: [", "must be YAML, but while parsing"),
    ],
)
def test_wrong_files(tmp_path, capsys, content, message):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    assert message in wrong(capsys, "--config", str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sed", "1"], "unknown option '--sed'. Did you mean '--seed'?"),
        (["--emotion", "a"], "unknown option '--emotion'. Did you mean '--emotions'?"),
        (["--model.fusion_rnk", "3"], "unknown option '--model.fusion_rnk'. Did you mean '--model.fusion_rank'?"),
        (["--fusion_rank", "3"], "unknown option '--fusion_rank'. Did you mean '--model.fusion_rank'?"),
        (["--training.lr=3"], "unknown option '--training.lr=3'"),
        (["--seed", "one"], "seed must be a whole number, but got one."),
        (["--training.learning_rate", "fast"], "training.learning_rate must be a number, but got fast."),
        (["--seed", "-1"], "seed must be a whole number from 0 to 2^63 - 1, but got -1."),
        (["--data_path", ""], "data_path must be a path in UTF-8 or null, but got ''."),
        (["--model", "3"], "model must hold settings by name, but got '3'. See --help."),
        (["--config", "nowhere"], "--config must be a YAML file, but nowhere is none. Shipped ones are"),
        (["--config=nowhere"], "--config must be a YAML file, but nowhere is none. Shipped ones are"),
        (["extra"], "unknown option 'extra'"),
    ],
)
def test_wrong_options(capsys, arguments, message):
    assert wrong(capsys, *arguments).startswith(message)


# -- the shipped files


def test_configs_are_shipped():
    assert {"multitask.yaml", "sample.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_parse(path):
    config = parse("--config", str(path))
    stated = yaml.safe_load(path.read_text())
    for part in ("data", "model", "training"):
        for name, value in (stated.get(part) or {}).items():
            assert getattr(getattr(config, part), name) == value, f"{part}.{name}"
    lines = path.read_text().splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert any("Command: " in line for line in header)
    assert any("ublished" in line or "easured" in line for line in header)


def test_multitask_config_states_the_defaults():
    path = next(path for path in CONFIGS if path.name == "multitask.yaml")
    assert parse("--config", str(path)) == ExperimentConfig()
    stated = yaml.safe_load(path.read_text())
    defaults = dataclasses.asdict(ExperimentConfig())
    for part in ("data", "model", "training"):
        assert set(stated[part]) == set(defaults[part])


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
        ConfigError, match=r"--config must be a YAML file, but .* is none. Shipped ones are .*multitask"
    ):
        find_config(name)


# -- where a run goes


def test_run_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert ExperimentConfig(seed=3).run_directory() == Path("runs/multitask-seed3")
    assert ExperimentConfig(output_dir="~/x").run_directory() == Path("/home/someone/x")
