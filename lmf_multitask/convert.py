"""Turn a checkpoint of another LMF code into a run directory for evaluate, infer and export.

CHECKPOINT: LMF_Paddle's .pkl, or a state dict of the original PyTorch code, written by torch.save or as .npz.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, converts, prints the sizes."""
    parser = CommandParser(prog="lmf convert", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file to convert")
    parser.add_argument("--emotion", required=True, metavar="NAME", help="the emotion that it recognises")
    parser.add_argument("--output_dir", required=True, metavar="RUN_DIR", help="the run directory to write")
    parser.add_argument("--data_path", metavar="FILE", help="the data that later commands evaluate it on by default")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that exists")
    options = parser.parse_args(arguments)
    tune_cpu()

    from lmf_multitask.pipeline.conversion import convert_run

    model = convert_run(
        options.checkpoint, options.emotion, options.output_dir, options.data_path, overwrite=options.overwrite
    )
    sizes = {
        name: f"{model.inputs[name].features} features, hidden {part.size}" for name, part in model.encoders.items()
    }
    print(f"{options.emotion}: " + "; ".join(f"{name} {text}" for name, text in sizes.items()))
    print(f"run directory: {options.output_dir}")


if __name__ == "__main__":
    sys.exit(run(main))
