"""An ablation from its config to its table."""

import json

import pytest
from scipy import stats

from lmf_multitask.ablate import main
from lmf_multitask.command_line import run
from lmf_multitask.config import build
from lmf_multitask.errors import ConfigError
from lmf_multitask.pipeline.ablation import AblationConfig, ablation_table, shown_metrics, summary
from lmf_multitask.pipeline.settings import ExperimentConfig, find_config
from lmf_multitask.strict_yaml import read_settings

CONFIG = """
experiment:
  model:
    encoders: {audio: {hidden: 4}, video: {hidden: 3}, text: {state: 4, hidden: 4, projection: 3}}
    fusion: {rank: 1, dim: 4}
  training: {epochs: 1}
variants:
  no words dropped: {model.encoders.text.step_dropout: 0.0}
"""


@pytest.mark.slow
def test_trained_summarised_and_continued(tmp_path, sample_path, capsys):
    (tmp_path / "ablation.yaml").write_text(CONFIG)
    out = tmp_path / "out"
    command = ["--config", str(tmp_path / "ablation.yaml"), "--data_path", str(sample_path), "--output_dir", str(out)]
    assert run(main, [*command, "--seeds", "1", "2"]) == 0
    text = capsys.readouterr().out
    found = json.loads((out / "ablation.json").read_text())
    metrics_of = {}
    for name in ("as-configured", "no-words-dropped"):
        for seed in (1, 2):
            metrics = json.loads((out / name / f"seed{seed}/metrics.json").read_text())
            metrics_of[name, seed] = {**metrics["mean"], **metrics["exclusive"]}
    for key in ("weighted_f1", "positive_f1", "auroc", "unweighted_accuracy"):
        whole = found["variants"]["as configured"][key]
        assert whole["mean"] == pytest.approx(
            (metrics_of["as-configured", 1][key] + metrics_of["as-configured", 2][key]) / 2
        )
        changes = [
            metrics_of["no-words-dropped", seed][key] - metrics_of["as-configured", seed][key] for seed in (1, 2)
        ]
        variant = found["variants"]["no words dropped"][key]
        assert variant["difference"] == pytest.approx(sum(changes) / 2)
        mean, spread = sum(changes) / 2, stats.sem(changes)
        low, high = stats.t.interval(0.95, 1, mean, spread) if spread else (mean, mean)
        assert variant["interval"] == pytest.approx([low, high])
    assert ablation_table(found).as_text() in text
    before = (out / "as-configured/seed1/metrics.json").stat().st_mtime_ns
    assert run(main, [*command, "--seeds", "1", "2"]) == 0
    assert "is complete already" in capsys.readouterr().err
    assert (out / "as-configured/seed1/metrics.json").stat().st_mtime_ns == before


def test_a_metric_that_the_labels_do_not_define_has_no_column():
    for exclusive, last in ((None, "AUROC"), ({"unweighted_accuracy": 0.5}, "UA")):
        runs = {
            seed: shown_metrics({"mean": {"weighted_f1": 0.5 + seed / 10, "auroc": 0.75}, "exclusive": exclusive})
            for seed in (1, 2)
        }
        found = {"split": "test", "seeds": [1, 2], "variants": {"as configured": summary(runs, runs)}}
        assert ablation_table(found).as_text().splitlines()[1].rstrip().endswith(last)
    assert shown_metrics(None) == {}


def test_the_shipped_one_changes_one_part_at_a_time():
    config = build(AblationConfig, read_settings(find_config("ablation/multitask")))
    experiments = config.experiments()
    assert experiments.pop("as configured") == ExperimentConfig()
    assert len(experiments) == len(config.variants) > 10
    assert all(experiment != ExperimentConfig() for experiment in experiments.values())


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({}, r"variants must name at least one variant, but is empty\."),
        ({"x": {}}, r"variants: x must change at least one setting, but got {}\."),
        ({"x": {"seed": 2}}, r"variants: x must change settings of model or training, but names 'seed'\."),
        (
            {"x": {"model.fusion.rank": 0}},
            r"variants: x: model.fusion.rank must be greater than or equal to 1, but got 0",
        ),
        (
            {"x": {"model.fusion.ranks": 1}},
            "variants: x: unknown setting 'model.fusion.ranks' of the kind lmf. Did you mean 'model.fusion.rank'",
        ),
        ({"As configured": {"model.fusion.rank": 1}}, "none of them 'as configured'"),
        ({"a b": {"model.fusion.rank": 1}, "a-b": {"model.fusion.rank": 2}}, "variants must have different names"),
    ],
)
def test_wrong_variants(variants, message):
    with pytest.raises(ConfigError, match=message):
        AblationConfig(variants=variants)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "1"], "--seeds must be two or more different whole numbers of at least 0, but got 1."),
        (["--seeds", "1", "1"], "--seeds must be two or more different whole numbers of at least 0, but got 1, 1."),
        (["--jobs", "0"], "--jobs must be a whole number of at least 1, but got 0."),
    ],
)
def test_wrong_options(options, message, capsys, tmp_path):
    (tmp_path / "ablation.yaml").write_text(CONFIG)
    assert run(main, ["--config", str(tmp_path / "ablation.yaml"), *options]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
