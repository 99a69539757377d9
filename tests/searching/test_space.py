"""What a search may be: every rule's message, and which configs a space makes."""

import dataclasses
import re

import pytest
import yaml

from lmf_multitask.command_line import CommandParser, with_found_configs
from lmf_multitask.config import ExperimentConfig, TrainingConfig, find_config, recipe_config
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.runs import settings_from
from lmf_multitask.searching.space import SearchConfig, read_search


def parse(*arguments):
    parser = CommandParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(SearchConfig)
    built = parser.instantiate(parser.parse_args(with_found_configs(arguments)))
    return SearchConfig(**{name: getattr(built, name) for name in SearchConfig.__dataclass_fields__})


SPACE = {"model.fusion_rank": {"choices": [1, 4]}}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space must name at least one setting that varies, but got {}. See configs/search/multitask.yaml."),
        (
            {"model.rank": {"choices": [1]}},
            "space must name settings of model or training, but names 'model.rank'. Did you mean",
        ),
        ({"fusion_rank": {"choices": [1]}}, "but names 'fusion_rank'. Did you mean 'model.fusion_rank'?"),
        ({"training.learning_rat": {"choices": [1]}}, "Did you mean 'training.learning_rate'?"),
        (
            {"seed": {"choices": [1]}},
            "space must name settings of model or training, but names 'seed'. Choose among model.",
        ),
        ({"training.visualdl": {"choices": [True, False]}}, "but names 'training.visualdl'."),
        ({"model.fusion_rank": [1, 2]}, "space: model.fusion_rank must have choices, or low and high, but got [1, 2]."),
        ({"model.fusion_rank": {"choice": [1]}}, "but has 'choice'. Did you mean 'choices'?"),
        (
            {"model.fusion_rank": {"low": 1}},
            "space: model.fusion_rank must have choices, or low and high, but has low.",
        ),
        (
            {"model.fusion_rank": {"low": 1, "high": 2, "choices": [1]}},
            "must have choices, or low and high, but has low, high, choices.",
        ),
        ({"model.fusion_rank": {"choices": []}}, "space: model.fusion_rank must have a list of choices, but got []."),
        ({"model.fusion_rank": {"choices": 3}}, "must have a list of choices, but got 3. Write [a, b]."),
        ({"model.fusion_rank": {"choices": [1, 1]}}, "must have different choices, but got [1, 1]. Leave one out."),
        (
            {"model.fusion_rank": {"low": 4, "high": 4}},
            "space: model.fusion_rank must have low below high, but got 4 and 4.",
        ),
        ({"model.fusion_rank": {"low": "1", "high": 4}}, "space: model.fusion_rank.low must be a number, but got '1'."),
        (
            {"model.fusion_rank": {"low": True, "high": 4}},
            "space: model.fusion_rank.low must be a number, but got True.",
        ),
        (
            {"model.audio_dropout": {"low": 0, "high": 0.5, "log": True}},
            "space: model.audio_dropout.low must be above 0 where log is true, but got 0.",
        ),
        (
            {"model.audio_dropout": {"low": 0.1, "high": 0.5, "log": "yes"}},
            "space: model.audio_dropout.log must be true or false, but got 'yes'.",
        ),
        (
            {"model.audio_dropout": {"low": 0, "high": 1}},
            "space: model.audio_dropout must be at least 0 and below 1, but got 1.0.",
        ),
        (
            {"model.fusion_rank": {"choices": [4, 0]}},
            "space: model.fusion_rank must be a whole number from 1 to 65536, but got 0.",
        ),
        (
            {"model.fusion_rank": {"low": 0.5, "high": 4}},
            "space: model.fusion_rank must be a whole number from 1 to 65536, but got 0.5.",
        ),
        (
            {"model.fusion": {"choices": ["lmf", "tfm"]}},
            "space: model.fusion must be lmf, tfn, concat or late, but got 'tfm'.",
        ),
        ({"model.fusion": {"low": 1, "high": 2}}, "space: model.fusion must be lmf, tfn, concat or late, but got 1."),
        (
            {"training.batch_size": {"choices": [1, 8]}},
            "space: training.batch_size must be a whole number of at least 2, but got 1.",
        ),
        (
            {"model.text_lstm, model.text_hidden": {"choices": [[64, 32], 64]}},
            "space: model.text_lstm, model.text_hidden must have choices of 2 values each, but got 64. Write [[a, b], [c, d]].",
        ),
        (
            {"model.text_lstm, model.text_hidden": {"choices": [[64, 0]]}},
            "space: model.text_hidden must be a whole number from 1 to 65536, but got 0.",
        ),
        (
            {"model.text_lstm, model.text_hidden": {"low": 1, "high": 2}},
            "space: model.text_lstm, model.text_hidden must have choices",
        ),
        (
            {"model.text_lstm, model.text_hidden": {"choices": [[64, 32]]}, "model.text_hidden": {"choices": [8]}},
            "space must name each setting once, but names model.text_hidden twice. Leave one out.",
        ),
    ],
)
def test_wrong_spaces(space, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SearchConfig(space=space)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": "f1"},
            "objective must be one of loss, weighted_f1, positive_f1, accuracy, uar, auroc, average_precision, but got 'f1'.",
        ),
        ({"objective": "weightedf1"}, "Did you mean 'weighted_f1'?"),
        (
            {"experiment": ExperimentConfig(output_dir="runs/x")},
            "experiment.output_dir must be left out, since every trial would go there. Give --output_dir.",
        ),
        ({"seed": -1}, "seed must be a whole number from 0 to 2^32 - 1, but got -1."),
    ],
)
def test_wrong_searches(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SearchConfig(space=SPACE, **settings)


def test_wrong_pruning():
    from lmf_multitask.searching.space import PruningConfig

    with pytest.raises(
        ConfigError, match=r"method must be median or none, but got 'fast'; pruning.warmup_epochs must be"
    ):
        PruningConfig("fast", warmup_epochs=0)


def test_what_a_dimension_makes_of_a_setting():
    space = {
        "training.learning_rate": {"low": 1, "high": 2},
        "model.audio_hidden": {"low": 2, "high": 64, "log": True},
        "model.fusion_dim": {"choices": [None, 16]},
        "model.text_lstm, model.text_hidden": {"choices": [[64, 32], [128, 64]]},
        "model.modalities": {"choices": [["audio", "text"], ["text"]]},
    }
    rate, hidden, dim, tied, modalities = SearchConfig(space=space).dimensions()
    assert (rate.low, rate.high, rate.whole, rate.log) == (1.0, 2.0, False, False)
    assert (type(rate.low), hidden.whole, hidden.log) == (float, True, True)
    assert dim.stored_choices() == [None, 16]
    assert [tied.value(stored) for stored in tied.stored_choices()] == [[64, 32], [128, 64]]
    assert tied.assigned([64, 32]) == {"model.text_lstm": 64, "model.text_hidden": 32}
    assert modalities.assigned(modalities.value('["text"]')) == {"model.modalities": ["text"]}
    changed = ExperimentConfig(seed=5).with_settings({"model.text_lstm": 7, "training.learning_rate": 0.5})
    assert (changed.seed, changed.model.text_lstm, changed.training.learning_rate) == (5, 7, 0.5)
    assert dataclasses.replace(changed.model, text_lstm=ExperimentConfig().model.text_lstm) == ExperimentConfig().model


def test_the_yaml_comes_back_and_differences_are_named(tmp_path):
    config = parse("--config", "search/multitask")
    (tmp_path / "search.yaml").write_text(config.to_yaml())
    content = read_search(tmp_path / "search.yaml")
    assert config.difference(content) is None
    other = dataclasses.replace(config, space={**config.space, "model.fusion_rank": {"choices": [1, 2]}})
    assert other.difference(content) == (
        "space.model.fusion_rank", {"choices": [1, 2, 4, 8, 16]}, {"choices": [1, 2]},
    )  # fmt: skip
    fewer = {name: values for name, values in config.space.items() if name != "model.fusion_dim"}
    found = dataclasses.replace(config, space=fewer).difference(content)
    assert (found[0], found[2]) == ("space.model.fusion_dim", "nothing")
    longer = dataclasses.replace(config.experiment, training=TrainingConfig(epochs=41))
    assert dataclasses.replace(config, experiment=longer).difference(content) == ("experiment.training.epochs", 40, 41)
    elsewhere = dataclasses.replace(config.experiment, device="cpu")
    assert dataclasses.replace(config, experiment=elsewhere).difference(content) is None


@pytest.mark.parametrize("text", ["a: [", "a: 1", "[1]", ""])
def test_damaged_search_files(tmp_path, text):
    (tmp_path / "search.yaml").write_text(text)
    with pytest.raises(RunError, match="search.yaml: must hold the settings of a search, but"):
        read_search(tmp_path / "search.yaml")


# -- the shipped ones


@pytest.mark.parametrize("name", ["multitask", "per_emotion"])
def test_shipped_searches_parse_and_say_what_was_measured(name):
    config = parse("--config", f"search/{name}")
    path = find_config(f"search/{name}")
    stated = yaml.safe_load(path.read_text())
    assert stated["space"] == config.space
    header = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    assert any(
        line.startswith(f"# Command: python -m lmf_multitask.search --config configs/search/{name}.yaml")
        for line in header
    )
    assert any("Measured on " in line for line in header)


def test_the_multitask_search_holds_the_defaults():
    """Whoever searches can find that the defaults were good."""
    config = parse("--config", "search/multitask")
    defaults = ExperimentConfig()
    for one in config.dimensions():
        group, _, field = one.name.partition(".")
        value = getattr(getattr(defaults, group), field)
        assert value in one.choices if one.choices else one.low <= value <= one.high, one.name
    assert config.experiment == defaults


def test_the_per_emotion_search_is_the_authors():
    """FACTS 3: the original's space; what is not in it is as the recipe `paper` has it."""
    config = parse("--config", "search/per_emotion")
    dropouts = [0, 0.1, 0.15, 0.2, 0.3, 0.5]
    rates = [0.0003, 0.0005, 0.001, 0.003]
    assert {name: values["choices"] for name, values in config.space.items()} == {
        "model.audio_hidden": [8, 16, 32],
        "model.video_hidden": [4, 8, 16],
        "model.text_lstm, model.text_hidden": [[64, 32], [128, 64], [256, 128]],
        "model.audio_dropout": dropouts,
        "model.video_dropout": dropouts,
        "model.text_dropout": dropouts,
        "training.factor_learning_rate": rates,
        "training.learning_rate": rates,
        "model.fusion_rank": [1, 4, 8, 16],
        "training.batch_size": [8, 16, 32, 64, 128],
        "training.weight_decay": [0, 0.001, 0.002, 0.01],
    }
    recipe = settings_from(recipe_config("paper", "unpublished"))
    varied = {
        name: getattr(getattr(recipe, g), n)
        for one in config.dimensions()
        for name in one.settings
        for g, _, n in [name.partition(".")]
    }
    assert config.experiment.with_settings(varied) == recipe
    assert config.per_emotion
