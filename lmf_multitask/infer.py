"""Predict the clips of a file with an exported model or a run: EMOTION_prob.npy, TASK_value.npy and predictions.csv.

Each EMOTION_prob.npy is float32 [clips, 2]: the probabilities that the emotion is absent and present. Each TASK_value.npy is
float32 [clips]: the values of a real-valued task.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, SettingsOptions, run
from lmf_multitask.data.config import ReadingOptions
from lmf_multitask.data.schema import SPLITS
from lmf_multitask.deployment.options import add_model_options
from lmf_multitask.evaluation.calibration import OWN
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, predicts, prints what was written."""
    parser = CommandParser(prog="lmf infer", description=__doc__)
    add_model_options(parser)
    parser.add_argument(
        "--data_path",
        metavar="FILE",
        help="any file or folder that lmf train reads; labels are not needed (default: the built-in sample)",
    )
    parser.add_argument("--split", choices=list(SPLITS), default="test", help="default: test")
    parser.add_argument("--all", action="store_true", help="all splits, one after another")
    parser.add_argument("--output_dir", default="out_prob", help="folder to write; default: out_prob")
    parser.add_argument("--batch_size", type=int, help="clips per forward pass; default: 64")
    parser.add_argument("--workers", type=int, help="batches side by side; default: one per core with onnx, else 1")
    parser.add_argument(
        "--thresholds",
        default=OWN,
        metavar="NAME",
        help="above which an emotion counts as present: own, those of the training (default); half; or those with the best "
        "weighted_f1, positive_f1 or uar on validation",
    )
    parser.add_argument(
        "--benchmark",
        nargs="?",
        const="True",
        default="False",
        choices=["True", "False", "true", "false"],
        help="also measure the speed; without --data_path on generated clips",
    )
    settings = SettingsOptions(parser, ReadingOptions)
    options = parser.parse_args(arguments)
    data = settings.build(options).data

    tune_cpu(threads=options.threads)
    from lmf_multitask.data.sample import builtin_sample
    from lmf_multitask.data.sources import open_source
    from lmf_multitask.deployment.inference import BATCH_SIZE, infer_file
    from lmf_multitask.deployment.predictor import Predictor
    from lmf_multitask.errors import ConfigError

    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers must be at least 1, but got {options.workers}.")
    size = BATCH_SIZE if options.batch_size is None else options.batch_size
    if size < 1:
        raise ConfigError(f"--batch_size must be at least 1, but got {size}.")
    predictor = Predictor(options.model_dir, options.backend, options.device, options.threads)
    thresholds = predictor.thresholds(options.thresholds)
    path, benchmark = options.data_path, options.benchmark.lower() == "true"
    if path is None and not benchmark:
        path = builtin_sample()
        print("without --data_path: these are the made-up clips of the built-in sample")
    source = None if path is None else open_source(path, None if options.all else options.split, config=data)
    if benchmark:
        from lmf_multitask.deployment.benchmark import BATCH_SIZES, timing_table
        from lmf_multitask.deployment.description import generated_clips

        clips = generated_clips(predictor.description, 1024) if source is None else next(source.all_blocks(1024))[1]
        print(timing_table(predictor, clips, BATCH_SIZES if options.batch_size is None else (size,)))
    if source is not None:
        report = infer_file(predictor, source, options.output_dir, size, thresholds, options.workers)
        print("\n".join(report.lines()))


if __name__ == "__main__":
    sys.exit(run(main))
