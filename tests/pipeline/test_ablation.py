"""An ablation from its config to its table."""

import json

import pytest
from scipy import stats

from lmf_multitask.ablate import main
from lmf_multitask.ablation import AblationConfig, _figures, _summary, ablation_table
from lmf_multitask.command_line import run
from lmf_multitask.config import ExperimentConfig, find_config
from lmf_multitask.errors import ConfigError

CONFIG = """
experiment:
  model: {audio_hidden: 4, video_hidden: 3, text_lstm: 4, text_hidden: 4, text_projection: 3, fusion_rank: 1, fusion_dim: 4}
  training: {epochs: 1}
variants:
  no words dropped: {model.word_dropout: 0.0}
"""


@pytest.mark.slow
def test_trained_summed_up_and_gone_on_with(tmp_path, sample_path, capsys):
    (tmp_path / "ablation.yaml").write_text(CONFIG)
    out = tmp_path / "out"
    command = ["--config", str(tmp_path / "ablation.yaml"), "--data_path", str(sample_path), "--output_dir", str(out)]
    assert run(main, [*command, "--seeds", "1", "2"]) == 0
    text = capsys.readouterr().out
    found = json.loads((out / "ablation.json").read_text())
    figures = {}
    for name in ("as-configured", "no-words-dropped"):
        for seed in (1, 2):
            metrics = json.loads((out / name / f"seed{seed}/metrics.json").read_text())
            figures[name, seed] = {**metrics["mean"], **metrics["exclusive"]}
    for figure in ("weighted_f1", "positive_f1", "auroc", "unweighted_accuracy"):
        whole = found["variants"]["as configured"][figure]
        assert whole["mean"] == pytest.approx(
            (figures["as-configured", 1][figure] + figures["as-configured", 2][figure]) / 2
        )
        changes = [
            figures["no-words-dropped", seed][figure] - figures["as-configured", seed][figure] for seed in (1, 2)
        ]
        variant = found["variants"]["no words dropped"][figure]
        assert variant["difference"] == pytest.approx(sum(changes) / 2)
        mean, spread = sum(changes) / 2, stats.sem(changes)
        low, high = stats.t.interval(0.95, 1, mean, spread) if spread else (mean, mean)
        assert variant["interval"] == pytest.approx([low, high])
    assert ablation_table(found).as_text() in text
    before = (out / "as-configured/seed1/metrics.json").stat().st_mtime_ns
    assert run(main, [*command, "--seeds", "1", "2"]) == 0
    assert "is complete already" in capsys.readouterr().err
    assert (out / "as-configured/seed1/metrics.json").stat().st_mtime_ns == before


def test_a_figure_that_the_labels_do_not_define_has_no_column(tmp_path):
    def run_of(seed, exclusive):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir(exist_ok=True)
        mean = {"weighted_f1": 0.5 + seed / 10, "positive_f1": 0.25, "auroc": 0.75}
        (folder / "config.yaml").touch()
        (folder / "metrics.json").write_text(json.dumps({"mean": mean, "exclusive": exclusive}))
        return _figures(folder)

    for exclusive, last in ((None, "AUROC"), ({"unweighted_accuracy": 0.5}, "UA of one among all")):
        runs = {seed: run_of(seed, exclusive) for seed in (1, 2)}
        found = {"split": "test", "seeds": [1, 2], "variants": {"as configured": _summary(runs, runs)}}
        head = ablation_table(found).as_text().splitlines()[1]
        assert head.rstrip().endswith(last)


def test_the_shipped_one_changes_one_part_at_a_time():
    import yaml

    content = yaml.safe_load(find_config("ablation/multitask").read_text())
    config = AblationConfig(variants=content["variants"])
    experiments = config.experiments()
    assert experiments.pop("as configured") == ExperimentConfig()
    assert len(experiments) == len(content["variants"]) > 10
    assert all(experiment != ExperimentConfig() for experiment in experiments.values())


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({}, r"variants must name at least one variant, but got {}\."),
        ({"x": {}}, r"variants: x must change at least one setting, but got {}\."),
        ({"x": {"model.rank": 2}}, r"variants: x must change settings of model or training, but names 'model.rank'\."),
        ({"x": {"model.fusion_rank": 0}}, r"variants: x: model.fusion_rank must be a whole number from 1"),
        ({"As configured": {"model.fusion_rank": 1}}, "none of them 'as configured'"),
        ({"a b": {"model.fusion_rank": 1}, "a-b": {"model.fusion_rank": 2}}, "variants must have different names"),
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
