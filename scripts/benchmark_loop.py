"""Time of `LMFTrainer` beside that of a bare Paddle loop: the same model, data, optimiser and number of steps.

    python scripts/benchmark_loop.py --data_path FILE [--epochs 3] [--rounds 5]

The bare loop gathers batches, trains, averages weights, and computes the validation loss; the trainer also checks that all
gradients are finite, computes the validation metrics, keeps the history and writes a checkpoint per epoch. They run in turn
(A B A B ...); the script prints medians and their ratio.
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

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.data.loading import load
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.pipeline.experiment import validation_metrics
from lmf_multitask.training.arguments import training_arguments
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.module import LMFModule
from lmf_multitask.training.trainer import LMFTrainer


def main() -> None:
    """Measures and prints."""
    import paddle  # imported by now, without its banner

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data = load(options.data_path)
    config = TrainingConfig(epochs=options.epochs, patience=None)
    columns = {split: column_arrays(rows) for split, rows in data.dataset.items()}
    train, validation = columns["train"], columns["validation"]

    def new_module() -> LMFModule:
        paddle.seed(1)
        np.random.seed(1)
        model = LMFModel(data.inputs, data.emotions)
        model.fit_statistics({name: train[name] for name in MODALITIES})
        return LMFModule(model, config, np.asarray(train["labels"]))

    def bare() -> None:
        module = new_module()
        optimizer = module.configure_optimizers()
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
                whole = {name: paddle.to_tensor(values[:]) for name, values in validation.items()}
                module.validation_step(whole)["loss"].item()

    def driven() -> None:
        module = new_module()
        model = module.model
        with tempfile.TemporaryDirectory() as folder:
            LMFTrainer(
                module,
                training_arguments(folder, config),
                train_dataset=data.dataset["train"],
                validation_dataset=data.dataset["validation"],
                compute_metrics=lambda outputs, labels: validation_metrics(model, outputs, labels, config.monitor),
            ).fit()

    seconds: dict[str, list[float]] = {"bare loop": [], "trainer": []}
    for number in range(options.rounds + 1):
        for name, loop in (("bare loop", bare), ("trainer", driven)):
            start = time.perf_counter()
            loop()
            if number:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / config.epochs)
    for name, values in seconds.items():
        print(f"{name:<9} {statistics.median(values):.3f} s per epoch (from {min(values):.3f} to {max(values):.3f})")
    ratios = [b / a for a, b in zip(seconds["bare loop"], seconds["trainer"])]
    print(f"ratio     {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
