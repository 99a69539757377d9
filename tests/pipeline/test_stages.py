"""The stages repeat no work: one load, one model, every split predicted once."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from conftest import small_experiment

from lmf_multitask.data import loading
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.pipeline import assessing, stages
from lmf_multitask.pipeline.experiment import run_experiment
from lmf_multitask.pipeline.reporting import evaluate_run, report_run


@pytest.fixture
def counts(monkeypatch):
    """How often data are loaded, models built with their weights, and splits predicted (name -> rows of each call)."""
    found = collections.defaultdict(list)

    def count(owner, name, label, size):
        original = getattr(owner, name)

        def counted(self, *positional, **named):
            found[label].append(size(self, *positional))
            return original(self, *positional, **named)

        monkeypatch.setattr(owner, name, counted)

    count(loading, "load", "load", lambda *arguments: None)
    monkeypatch.setattr(stages, "load_file", loading.load)
    count(LMFModel, "__init__", "model", lambda *arguments: type(arguments[0]))
    count(LMFModel, "predict_both", "predict", lambda self, columns, *rest: len(columns["audio"]))
    return found


TRAIN, VALIDATION, TEST, SUBSETS = 31, 16, 19, 2**3 - 2


def test_a_training_with_its_report_does_everything_once(corpus_path, tmp_path, counts):
    run_experiment(small_experiment(corpus_path, tmp_path / "run", epochs=1, ema_epochs=1.0), quiet=True)
    assert len(counts["load"]) == 1
    assert counts["model"].count(LMFModel) == 1
    # validation by the network alone, and with the fitted linear model; test; and without some modalities: subsets of them for
    # the report, and single ones for without.csv
    assert counts["predict"] == [VALIDATION, VALIDATION, TEST, *[VALIDATION] * SUBSETS, *[TEST] * 3]
    assert (tmp_path / "run/report.html").is_file()


def test_an_evaluation_does_everything_once(trained, tmp_path, counts):
    evaluate_run(trained[0], device="cpu", output_dir=tmp_path)
    assert (len(counts["load"]), counts["model"].count(LMFModel), counts["predict"]) == (1, 1, [TEST])
    counts.clear()
    report_run(trained[0], output_dir=tmp_path)
    assert (len(counts["load"]), counts["model"].count(LMFModel)) == (1, 1)
    assert counts["predict"][: 2 + SUBSETS] == [TEST, VALIDATION, *[VALIDATION] * SUBSETS]


def test_predictions_of_separate_models_are_side_by_side(corpus_path, tmp_path):
    for name in ("sad", "happy"):
        config = small_experiment(corpus_path, tmp_path / "parent" / name, emotions=[name], epochs=1)
        run_experiment(config, report=False, quiet=True)
    both = stages.restore(tmp_path / "parent", device="cpu")
    names = [task.name for task in both.tasks]
    assert names == ["happy", "sad"]
    found = stages.predict(both, "test")
    for t, name in enumerate(names):
        alone = stages.predict(stages.restore(tmp_path / "parent" / name, device="cpu"), "test")
        np.testing.assert_array_equal(found.predictions[:, t], alone.predictions[:, 0])
        np.testing.assert_array_equal(found.labels[:, t], alone.labels[:, 0])
    metrics = assessing.assess_predictions(both, found).metrics
    assert (metrics["mode"], list(metrics["emotions"])) == ("per_emotion", ["happy", "sad"])


def test_a_damaged_model_is_refused(trained, tmp_path):
    """One flipped bit of a weight that stays finite."""
    import shutil

    from lmf_multitask.errors import RunError

    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    path = folder / "model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="model.safetensors differs"):
        stages.restore(folder, device="cpu")


def test_a_modality_that_train_lacks_has_no_part(corpus_path, tmp_path):
    config = small_experiment(corpus_path, tmp_path / "run")
    less = stages.without(config, ["video"])
    assert less.model.modalities == ["audio", "text"]
    assert dataclasses.replace(less, model=config.model) == config
    assert json.dumps(config.model.modalities) == '["audio", "video", "text"]'
