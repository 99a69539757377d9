"""A step with NaN or infinite numbers stops the training and names the clips; and the edges of batches."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from conftest import INPUTS, PLAIN, SMALL_PAPERS, model_config
from training.test_survival import bits, settings, train

from lmf_multitask import load_iemocap
from lmf_multitask.config import replaced
from lmf_multitask.data.columns import column_arrays
from lmf_multitask.errors import TrainingError
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.training.batches import EpochBatchSampler, LMFPaddleBatchSampler
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.module import LMFModule, TrainingModule

NAN = np.nan


def break_step(monkeypatch, number, how):
    """Replaces the module's step of that number by `how`; returns the list of batches."""
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
    """NaN in the features of a clip: relu turns it into 0, so that the loss stays finite."""
    audio = batch["audio"].numpy()
    audio[0] = np.nan  # all of them, since dropout may take any one away
    return step(module, {**batch, "audio": paddle.to_tensor(audio)})


def large_statistics(module, batch, step):
    """A very large feature: its running variance overflows, while everything else stays finite."""
    video = batch["video"].numpy()
    video[0, 2] = 1e30
    return step(module, {**batch, "video": paddle.to_tensor(video)})


WAYS = {
    "the loss": (infinite_loss, "the training loss", "the gradient of "),
    "a gradient": (hidden_nan, "the gradient of model.encoders.audio.norm.weight", "the gradient of model.encoders.audio.norm.weight"),
    "a running statistic": (large_statistics, "model.encoders.video.norm._", "model.encoders.video.norm._"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("order", "way", "number"),
    [
        *((order, way, 8) for order in ("seeded", "lmf_paddle") for way in WAYS),
        ("seeded", "a gradient", 1),
        ("lmf_paddle", "the loss", 10),
    ],
)
def test_training_stops_at_that_step_and_names_the_clips(
    sample_path, tmp_path, monkeypatch, caplog, order, way, number
):
    how, what, first = WAYS[way]
    batches = break_step(monkeypatch, number, how)
    config = settings(sample_path, tmp_path / "run", order)
    norms = {f"model.encoders.{name}.norm": "batch" for name in ("audio", "video")}  # which has running statistics
    config = replaced(config, norms)
    caplog.set_level(logging.DEBUG, "lmf_multitask")
    with pytest.raises(TrainingError) as caught:
        train(config)
    assert len(batches) == number
    epoch, step = divmod(number - 1, 5)  # 160 clips, 32 per step
    message = str(caught.value)
    found = re.fullmatch(
        r"(.+) must stay finite, but became NaN or infinite in epoch (\d+)\. Usual causes: .+ First seen in (.+) in step (\d+) of 5, "
        r"on the clips (.+) and 24 more \(see train\.log\)\.",
        message,
    )
    assert found, message
    assert found[1].startswith(what)
    assert found[3].startswith(first)
    assert (int(found[2]), int(found[4])) == (epoch + 1, step + 1)
    # the clips are those whose features were in the batch
    rows = load_iemocap(sample_path, config.emotions)["train"]
    text = np.asarray(column_arrays(rows)["text"][:])
    (line,) = (
        record.getMessage() for record in caplog.records if record.getMessage().startswith("the batch of that step: ")
    )
    clips = line.partition(": ")[2].split(", ")
    assert clips[:8] == found[5].split(", ")
    place = {clip: row for row, clip in enumerate(rows["id"])}
    np.testing.assert_array_equal(text[[place[clip] for clip in clips]], batches[-1]["text"])
    # earlier checkpoints are kept
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").glob("checkpoint-*"))
    assert kept == (["checkpoint-5"] if epoch else [])
    assert not (tmp_path / "run/metrics.json").exists()


def test_after_the_cause_is_removed_training_is_resumed_from_the_last_good_epoch(sample_path, tmp_path, monkeypatch):
    config = settings(sample_path, tmp_path / "whole")
    train(config)
    config.output_dir = str(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(TrainingError):
        break_step(patch, 18, hidden_nan)
        train(config)
    train(config, resume=True)
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
    model = LMFModel(INPUTS, ["calm", "tense"], model_config(SMALL_PAPERS))
    return LMFModule(model, TrainingConfig(**PLAIN, loss_reduction="mean"))


def batch_of(labels):
    rng = np.random.default_rng(0)
    features = {
        name: paddle.to_tensor(rng.normal(size=(len(labels), *shape)).astype("f4")) for name, shape in INPUTS.items()
    }
    return {**features, "labels": paddle.to_tensor(np.array(labels, "f4"))}


def test_a_batch_with_one_label_has_the_loss_of_that_label():
    module = small_module()
    batch = batch_of([[NAN, NAN], [1, NAN]])
    module.eval()
    logits = module.predict_step(batch).numpy()[1, :2].astype(np.float64)
    wanted = np.log(np.exp(logits).sum()) - logits[1]
    assert float(module.validation_step(batch)["loss"]) == pytest.approx(wanted, rel=1e-5)
    module.train()
    with paddle.no_grad():
        trained = module.predict_step(batch).numpy()
    assert trained.shape == (2, 4)


def test_logged_values_reach_the_trainer_with_the_number_of_rows():
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


def test_predictions_are_the_outputs_of_the_validation_step_by_default():
    class Plain(TrainingModule):
        def validation_step(self, batch):
            return {"loss": batch["x"].mean(), "outputs": batch["x"] + 1}

    assert Plain().predict_step({"x": paddle.to_tensor([1.0])}).tolist() == [2.0]
