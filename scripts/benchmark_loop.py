"""What the Trainer-driven loop costs beside a bare Paddle loop: the same model, data, optimiser and number of steps.

    python scripts/benchmark_loop.py --data_path FILE [--epochs 3] [--rounds 5]

The bare loop gathers batches, trains, averages weights, and computes the validation loss; the Trainer's also looks whether
all gradients are finite, computes the validation figures, keeps the history and writes a checkpoint per epoch. They run in
turn (A B A B ...); medians and their ratio count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from types import SimpleNamespace

import lmf_multitask.runtime

lmf_multitask.runtime.prepare_process()
lmf_multitask.runtime.tune_cpu()

import numpy as np

from lmf_multitask.config import ExperimentConfig, TrainingConfig
from lmf_multitask.data.schema import column_arrays, emotion_names
from lmf_multitask.evaluation.metrics import multitask_figures, present_probability
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.training.module import LMFModule
from lmf_multitask.training.trainer import LMFTrainer, training_arguments

from lmf_multitask.data.loading import load_data  # isort: skip - paddlenlp must be imported before datasets


def main() -> None:
    """Measures and prints."""
    import paddle  # loaded by now, without its banner

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data = load_data(ExperimentConfig(data_path=options.data_path))
    config = TrainingConfig(epochs=options.epochs, patience=None, monitor="weighted_f1")
    columns = {split: column_arrays(rows) for split, rows in data.items()}
    sizes = {name: columns["train"][name].shape[-1] for name in ("audio", "video", "text")}
    emotions = emotion_names(data["train"])

    def new_module() -> LMFModule:
        paddle.seed(1)
        np.random.seed(1)
        return LMFModule(LMFModel(sizes, emotions), config, columns["train"]["labels"])

    def bare() -> None:
        module = new_module()
        optimizer = module.configure_optimizers()
        train, validation = columns["train"], columns["validation"]
        step, steps = 0, -(-len(train["labels"]) // config.batch_size)
        module.trainer = SimpleNamespace(steps_per_epoch=steps, log_value=lambda *_: None)
        for _ in range(config.epochs):
            module.train()
            order = np.random.permutation(len(train["labels"]))
            for start in range(0, len(order), config.batch_size):
                rows = order[start : start + config.batch_size]
                lmf_multitask.runtime.flush_denormals(True)
                loss = module.training_step({name: paddle.to_tensor(values[rows]) for name, values in train.items()})
                loss.backward()
                optimizer.step()
                optimizer.clear_grad()
                lmf_multitask.runtime.flush_denormals(False)
                step += 1
                module.on_train_batch_end(step)
            module.eval()
            with paddle.no_grad():
                module.validation_step({name: paddle.to_tensor(values[:]) for name, values in validation.items()})[
                    "loss"
                ].item()

    def driven() -> None:
        def figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
            return multitask_figures(labels, present_probability(logits), emotions)["mean"]

        with tempfile.TemporaryDirectory() as folder:
            LMFTrainer(
                new_module(),
                training_arguments(folder, config),
                train_dataset=data["train"],
                validation_dataset=data["validation"],
                compute_metrics=figures,
            ).fit()

    seconds: dict[str, list[float]] = {"bare": [], "Trainer": []}
    for number in range(options.rounds + 1):
        for name, loop in (("bare", bare), ("Trainer", driven)):
            start = time.perf_counter()
            loop()
            if number:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / config.epochs)
    for name, values in seconds.items():
        print(f"{name:<8} {statistics.median(values):.3f} s per epoch (from {min(values):.3f} to {max(values):.3f})")
    ratios = [b / a for a, b in zip(seconds["bare"], seconds["Trainer"])]
    print(f"ratio    {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
