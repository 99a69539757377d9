"""Turn a trained run into static models that run without the training code; checked before they are put into place.

Per-emotion runs give a model per emotion (happy.json, happy.pdiparams, ...), a multi-task run gives one (multitask.*).
Paddle 3 writes .json where Paddle 2 wrote .pdmodel.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, exports, prints what was written and how well it agrees."""
    parser = CommandParser(prog="lmf export", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the output directory of a training")
    parser.add_argument("--output_dir", default="check_inference", help="folder to write; default: check_inference")
    parser.add_argument(
        "--format",
        choices=["paddle", "onnx", "both"],
        help="onnx needs the extra of that name; default: both where it is installed, otherwise paddle",
    )
    parser.add_argument(
        "--data_path", metavar="FILE", help="compare the models on its validation clips; default: on generated ones"
    )
    options = parser.parse_args(arguments)

    tune_cpu(threads=1)
    from lmf_multitask.deployment.description import FORMATS
    from lmf_multitask.deployment.exporter import TOLERANCE, export_run
    from lmf_multitask.deployment.writing import require_onnx

    formats = {"paddle": ("paddle",), "onnx": ("onnx",), "both": FORMATS}.get(options.format)
    if formats is not None and "onnx" in formats:
        require_onnx()
    done = export_run(options.run_dir, options.output_dir, formats, options.data_path)
    about = "generated clips" if options.data_path is None else f"clips of {options.data_path}"
    for form, difference in done.differences.items():
        print(
            f"{form}: probabilities differ from the trained model's by at most {difference:.2g} "
            f"(allowed: {TOLERANCE:g}), on {done.rows} {about}"
        )
    print(
        f"outputs: {', '.join(done.description.emotions)}; "
        + " and ".join(
            (["probabilities of absent and present"] if done.description.binary else [])
            + (["values"] if done.description.regression else [])
        )
    )
    print(f"written: {options.output_dir} ({', '.join(done.description.sha256)}, lmf_model.json)")


if __name__ == "__main__":
    sys.exit(run(main))
