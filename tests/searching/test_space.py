"""What a search may be: every rule's message, and which configs a space makes."""

import dataclasses
import re

import pytest
from conftest import model_config

from lmf_multitask.config import build, replaced, to_dict
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.pipeline.settings import ExperimentConfig, find_config, recipe_config
from lmf_multitask.searching.space import PruningConfig, SearchConfig, read_search
from lmf_multitask.strict_yaml import read_settings
from lmf_multitask.training.config import TrainingConfig

SPACE = {"model.fusion.rank": {"choices": [1, 4]}}
TIED = "model.encoders.text.state, model.encoders.text.hidden"


def shipped(name):
    return build(SearchConfig, read_settings(find_config(f"search/{name}")))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space must name at least one setting that varies, but is empty. See configs/search/multitask.yaml."),
        ({"model.rank": {"choices": [1]}}, "but names 'model.rank'. Did you mean 'model.fusion.rank'?"),
        ({"training.learning_rat": {"choices": [1]}}, "Did you mean 'training.learning_rate'?"),
        (
            {"seed": {"choices": [1]}},
            "space must name settings of model or training, but names 'seed'. Choose among model.",
        ),
        ({"training.visualdl": {"choices": [True, False]}}, "but names 'training.visualdl'."),
        ({"model.fusion.rank": [1, 2]}, "space: model.fusion.rank: "),
        ({"model.fusion.rank": {"choice": [1]}}, "Did you mean 'choices'"),
        (
            {"model.fusion.rank": {"low": 1}},
            "space: model.fusion.rank must have choices, or low, high and log, but got {'low': 1}.",
        ),
        (
            {"model.fusion.rank": {"low": 1, "high": 2, "choices": [1]}},
            "must have choices, or low, high and log, but got",
        ),
        ({"model.fusion.rank": {"choices": [1], "log": True}}, "must have choices, or low, high and log, but got"),
        ({"model.fusion.rank": {"choices": []}}, "space: model.fusion.rank: choices must"),
        ({"model.fusion.rank": {"choices": 3}}, "space: model.fusion.rank: choices must be"),
        ({"model.fusion.rank": {"choices": [1, 1]}}, "must have different choices, but got [1, 1]. Remove one."),
        (
            {"model.fusion.rank": {"low": 4, "high": 4}},
            "space: model.fusion.rank must have low below high, but got 4 and 4.",
        ),
        ({"model.fusion.rank": {"low": "1", "high": 4}}, "space: model.fusion.rank: low must be"),
        ({"model.fusion.rank": {"low": True, "high": 4}}, "space: model.fusion.rank: low must be"),
        (
            {"model.modality_dropout": {"low": 0, "high": 0.5, "log": True}},
            "space: model.modality_dropout.low must be above 0 where log is true, but got 0.",
        ),
        (
            {"model.modality_dropout": {"low": 0.1, "high": 0.5, "log": "yes"}},
            "log must be true or false, but got 'yes'.",
        ),
        (
            {"model.encoders.audio.dropout": {"low": 0, "high": 1}},
            "space: model.encoders.audio.dropout must be less than 1",
        ),
        ({"model.fusion.rank": {"choices": [4, 0]}}, "space: model.fusion.rank must be greater than or equal to 1"),
        (
            {"model.fusion.rank": {"low": 0.5, "high": 4}},
            "space: model.fusion.rank must be a whole number, but got 0.5.",
        ),
        ({"model.fusion.kind": {"choices": ["lmf", "tfm"]}}, "space: model.fusion.kind must be one of lmf, tfn"),
        (
            {"training.batch_size": {"choices": [1, 8]}},
            "space: training.batch_size must be greater than or equal to 2, but got 1.",
        ),
        (
            {TIED: {"choices": [[64, 32], 64]}},
            f"space: {TIED} must have choices of 2 values each, but got 64. Write [[a, b], [c, d]].",
        ),
        (
            {TIED: {"choices": [[64, 0]]}},
            "space: model.encoders.text.hidden must be greater than or equal to 1, but got 0.",
        ),
        ({TIED: {"low": 1, "high": 2}}, f"space: {TIED} must have choices, since it names several settings."),
        (
            {TIED: {"choices": [[64, 32]]}, "model.encoders.text.hidden": {"choices": [8]}},
            "space must name each setting once, but names model.encoders.text.hidden twice. Remove one.",
        ),
    ],
)
def test_wrong_spaces(space, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SearchConfig(space=space)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "f1"}, "objective must be one of loss, task_metric, weighted_f1, "),
        ({"objective": "weightedf1"}, "Did you mean 'weighted_f1'?"),
        (
            {"experiment": ExperimentConfig(output_dir="runs/x")},
            "experiment.output_dir must not be set, since every trial would be written there. Give --output_dir.",
        ),
        ({"seed": -1}, "seed must be greater than or equal to 0, but got -1"),
    ],
)
def test_wrong_searches(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SearchConfig(space=SPACE, **settings)


def test_wrong_pruning():
    with pytest.raises(ConfigError, match="method must be .*, but got 'fast'. warmup_epochs must be"):
        PruningConfig(method="fast", warmup_epochs=0)


def test_the_direction_is_that_of_the_metric():
    directions = {
        name: SearchConfig(space=SPACE, objective=name).maximise for name in ("loss", "brier", "auroc", "weighted_f1")
    }
    assert directions == {"loss": False, "brier": False, "auroc": True, "weighted_f1": True}


def test_what_a_dimension_makes_of_a_setting():
    space = {
        "training.learning_rate": {"low": 1, "high": 2},
        "model.encoders.audio.hidden": {"low": 2, "high": 64, "log": True},
        "model.encoders.text.projection": {"choices": [None, 16]},
        TIED: {"choices": [[64, 32], [128, 64]]},
        "model.modalities": {"choices": [["audio", "text"], ["text"]]},
        "model.fusion": {"choices": [{"kind": "lmf", "rank": 3}, {"kind": "tfn"}]},
    }
    rate, hidden, dim, tied, modalities, fusion = SearchConfig(space=space).dimensions()
    assert (rate.low, rate.high, rate.whole, rate.log) == (1.0, 2.0, False, False)
    assert (type(rate.low), hidden.whole, hidden.log) == (float, True, True)
    assert dim.stored_choices() == [None, 16]
    assert [tied.value(stored) for stored in tied.stored_choices()] == [[64, 32], [128, 64]]
    assert tied.assigned([64, 32]) == {"model.encoders.text.state": 64, "model.encoders.text.hidden": 32}
    assert modalities.assigned(modalities.value('["text"]')) == {"model.modalities": ["text"]}
    changed = replaced(ExperimentConfig(seed=5), fusion.assigned(fusion.value('{"kind": "tfn"}')))
    assert (changed.seed, changed.model) == (5, model_config({"fusion": {"kind": "tfn"}}))


def test_the_yaml_comes_back_and_differences_are_named(tmp_path):
    config = shipped("multitask")
    (tmp_path / "search.yaml").write_text(config.to_yaml())
    content = read_search(tmp_path / "search.yaml")
    assert config.difference(content) is None
    other = dataclasses.replace(config, space={**config.space, "model.fusion.rank": {"choices": [1, 2]}})
    assert other.difference(content) == (
        "space.model.fusion.rank", {"choices": [1, 2, 4, 8, 16]}, {"choices": [1, 2]},
    )  # fmt: skip
    fewer = {name: values for name, values in config.space.items() if name != "model.fusion.dim"}
    found = dataclasses.replace(config, space=fewer).difference(content)
    assert (found[0], found[2]) == ("space.model.fusion.dim", "nothing")
    longer = dataclasses.replace(config.experiment, training=TrainingConfig(epochs=41))
    assert dataclasses.replace(config, experiment=longer).difference(content) == ("experiment.training.epochs", 40, 41)
    elsewhere = dataclasses.replace(config.experiment, device="cpu", data_path="moved.pkl")
    assert dataclasses.replace(config, experiment=elsewhere).difference(content) is None


@pytest.mark.parametrize("text", ["a: [", "a: 1", "[1]", ""])
def test_damaged_search_files(tmp_path, text):
    (tmp_path / "search.yaml").write_text(text)
    with pytest.raises(RunError, match="search.yaml: must hold the settings of a search, but"):
        read_search(tmp_path / "search.yaml")


# -- the shipped ones


@pytest.mark.parametrize("name", ["multitask", "per_emotion"])
def test_shipped_searches_parse_and_say_what_was_measured(name):
    shipped(name)
    path = find_config(f"search/{name}")
    header = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    assert any(
        line.startswith(f"# Command: python -m lmf_multitask.search --config configs/search/{name}.yaml")
        for line in header
    )
    assert any("Measured on " in line for line in header)


def value_at(tree, name):
    for part in name.split("."):
        tree = tree[part]
    return tree


def test_the_multitask_search_holds_the_defaults():
    """A search can find that the defaults were good."""
    config, defaults = shipped("multitask"), to_dict(ExperimentConfig())
    for one in config.dimensions():
        values = [value_at(defaults, name) for name in one.settings]
        value = values if len(values) > 1 else values[0]
        assert value in one.choices if one.choices else one.low <= value <= one.high, one.name
    assert config.experiment == ExperimentConfig()


def test_the_per_emotion_search_is_the_authors():
    """FACTS 3: the original's space; what is not in it is as in the recipe `paper`."""
    config = shipped("per_emotion")
    dropouts = [0, 0.1, 0.15, 0.2, 0.3, 0.5]
    rates = [0.0003, 0.0005, 0.001, 0.003]
    assert {name: values["choices"] for name, values in config.space.items()} == {
        "model.encoders.audio.hidden": [8, 16, 32],
        "model.encoders.video.hidden": [4, 8, 16],
        TIED: [[64, 32], [128, 64], [256, 128]],
        **{f"model.encoders.{name}.dropout": dropouts for name in ("audio", "video", "text")},
        "training.factor_learning_rate": rates,
        "training.learning_rate": rates,
        "model.fusion.rank": [1, 4, 8, 16],
        "training.batch_size": [8, 16, 32, 64, 128],
        "training.weight_decay": [0, 0.001, 0.002, 0.01],
    }
    recipe = build(ExperimentConfig, recipe_config("paper", "unpublished"))
    varied = {name: value_at(to_dict(recipe), name) for one in config.dimensions() for name in one.settings}
    assert replaced(config.experiment, varied) == recipe
    assert config.per_emotion
