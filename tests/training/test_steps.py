"""A step that goes wrong stops there, and says where and on which clips; and the edges of batches."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from conftest import PAPERS, PLAIN
from training.test_survival import bits, settings

from lmf_multitask import load_iemocap
from lmf_multitask.config import ModelConfig, TrainingConfig
from lmf_multitask.data.schema import column_array
from lmf_multitask.errors import TrainingError
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.training import experiment
from lmf_multitask.training.batches import EpochBatchSampler, LMFPaddleBatchSampler
from lmf_multitask.training.module import LMFModule, TrainingModule


def break_step(monkeypatch, number, how):
    """Lets `how` loose on the module in its step of that number; returns what the steps were given."""
    batches = []
    original = LMFModule.training_step

    def step(self, batch):
        batches.append({name: value.numpy() for name, value in batch.items()})
        return how(self, batch, original) if len(batches) == number else original(self, batch)

    monkeypatch.setattr(LMFModule, "training_step", step)
    return batches


def infinite_loss(module, batch, step):
    return step(module, batch) * float("inf")


def hidden_nan(module, batch, step):
    """NaN in a feature: relu makes 0 of it, so that the loss stays finite."""
    audio = batch["audio"].numpy()
    audio[0, 3] = np.nan
    return step(module, {**batch, "audio": paddle.to_tensor(audio)})


def large_statistics(module, batch, step):
    """A feature of a very large size: its running variance overflows, and nothing else shows it."""
    video = batch["video"].numpy()
    video[0, 2] = 1e30
    return step(module, {**batch, "video": paddle.to_tensor(video)})


WAYS = {
    "the loss": (infinite_loss, "the training loss", "the gradient of "),
    "a gradient": (hidden_nan, "the gradient of model.audio_encoder.norm.weight", "the gradient of model.audio_encoder.norm.weight"),
    "a running statistic": (large_statistics, "model.video_encoder.norm._", "model.video_encoder.norm._"),
}  # fmt: skip


@pytest.mark.parametrize("order", ["seeded", "lmf_paddle"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [1, 8, 10])
def test_it_stops_at_that_step_and_names_the_clips(sample_path, tmp_path, monkeypatch, caplog, order, way, number):
    how, what, first = WAYS[way]
    batches = break_step(monkeypatch, number, how)
    config = settings(sample_path, tmp_path / "run", order)
    config.model.input_norm = "batch"  # which has running statistics
    caplog.set_level(logging.DEBUG, "lmf_multitask")
    with pytest.raises(TrainingError) as caught:
        experiment.run_experiment(config)
    assert len(batches) == number
    epoch, step = divmod(number - 1, 5)  # 160 clips, 32 per step
    said = str(caught.value)
    told = re.fullmatch(
        r"(.+) must stay finite, but became NaN or infinite in epoch (\d+)\. Usual causes: .+ First seen in (.+) in step (\d+) of 5, "
        r"on the clips (.+) and 24 more \(see train\.log\)\.",
        said,
    )
    assert told, said
    assert told[1].startswith(what)
    assert told[3].startswith(first)
    assert (int(told[2]), int(told[4])) == (epoch + 1, step + 1)
    # the clips are those whose features the step was given
    train = load_iemocap(sample_path, config.emotions)["train"]
    (line,) = (
        record.getMessage() for record in caplog.records if record.getMessage().startswith("the batch of that step: ")
    )
    clips = line.partition(": ")[2].split(", ")
    assert clips[:8] == told[5].split(", ")
    place = {clip: row for row, clip in enumerate(train["id"])}
    np.testing.assert_array_equal(column_array(train, "text")[[place[clip] for clip in clips]], batches[-1]["text"])
    # and what was good is kept
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("checkpoint-*"))
    assert kept == (["checkpoint-5"] if epoch else [])
    assert not (tmp_path / "run/metrics.json").exists()


def test_after_the_cause_is_mended_it_goes_on_from_the_last_good_epoch(sample_path, tmp_path, monkeypatch):
    config = settings(sample_path, tmp_path / "whole")
    experiment.run_experiment(config)
    config.output_dir = str(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(TrainingError):
        break_step(patch, 18, hidden_nan)
        experiment.run_experiment(config)
    experiment.run_experiment(config, resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


# -- the edges of batches


@pytest.mark.parametrize("seed", [None, 0])
def test_a_single_row_is_a_batch(seed):
    sampler = EpochBatchSampler(range(1), 4, seed)
    assert (len(sampler), list(sampler)) == (1, [[0]])


def test_batches_of_lmf_paddle_hold_every_row_once():
    np.random.seed(3)
    batches = list(LMFPaddleBatchSampler(range(10), 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(sum(batches, [])) == list(range(10))


def small_module():
    sizes = ModelConfig(
        **PAPERS, audio_hidden=3, video_hidden=2, text_lstm=4, text_hidden=2, fusion_rank=2, fusion_dim=6
    )
    model = LMFModel({"audio": 5, "video": 4, "text": 3}, ["calm", "tense"], sizes)
    return LMFModule(model, TrainingConfig(**PLAIN, loss_reduction="mean"))


def batch_of(labels):
    rng = np.random.default_rng(0)
    shapes = {"audio": (len(labels), 5), "video": (len(labels), 4), "text": (len(labels), 6, 3)}
    features = {name: paddle.to_tensor(rng.normal(size=shape).astype("f4")) for name, shape in shapes.items()}
    return {**features, "labels": paddle.to_tensor(np.array(labels, np.int64))}


def test_a_batch_with_one_label_has_the_loss_of_that_label():
    module = small_module()
    batch = batch_of([[-100, -100], [1, -100]])
    module.eval()
    logits = module.predict_step(batch).numpy()[1, 0].astype(np.float64)
    wanted = np.log(np.exp(logits).sum()) - logits[1]
    assert float(module.validation_step(batch)["loss"]) == pytest.approx(wanted, rel=1e-5)
    module.train()
    with paddle.no_grad():
        trained = module.predict_step(batch).numpy()
    assert trained.shape == (2, 2, 2)


def test_what_a_step_logs_reaches_the_trainer_with_the_number_of_rows():
    module, logged = small_module(), []
    module.trainer = SimpleNamespace(log_value=lambda name, value, rows: logged.append((name, float(value), rows)))
    module.train()
    loss = module.training_step(batch_of([[0, 1], [1, 0], [1, 1]]))
    assert logged == [("train_loss", pytest.approx(float(loss), rel=1e-6), 3)]
    TrainingModule.log(module, "other", 2.5)
    assert logged[1] == ("other", 2.5, 1)
    module.trainer = None
    module.log("nobody", 1.0)
    assert len(logged) == 2


def test_predictions_are_the_logits_of_the_validation_step_unless_said_otherwise():
    class Plain(TrainingModule):
        def validation_step(self, batch):
            return {"loss": batch["x"].mean(), "logits": batch["x"] + 1}

    assert Plain().predict_step({"x": paddle.to_tensor([1.0])}).tolist() == [2.0]
