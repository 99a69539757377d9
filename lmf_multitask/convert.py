"""Turn another LMF code's checkpoint into a run directory, which evaluate, infer and export then treat like any run.

CHECKPOINT: LMF_Paddle's .pkl, or a state dict of the original PyTorch code as .npz (or .pt, which needs PyTorch).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, converts, says what it found."""
    parser = CommandParser(prog="lmf convert", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file to convert")
    parser.add_argument("--emotion", required=True, metavar="NAME", help="which emotion it recognises")
    parser.add_argument("--output_dir", required=True, metavar="RUN_DIR", help="the run directory to write")
    parser.add_argument("--data_path", metavar="FILE", help="the data that later commands evaluate it on by default")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    options = parser.parse_args(arguments)
    tune_cpu()

    from lmf_multitask.runs import Run

    model = Run(options.output_dir).convert(
        options.checkpoint, options.emotion, options.data_path, overwrite=options.overwrite
    )
    sizes, config = model.feature_sizes, model.config
    print(
        f"{options.emotion}: features {sizes['audio']}, {sizes['video']}, {sizes['text']} (audio, video, text), "
        f"hidden {config.audio_hidden}, {config.video_hidden}, {config.text_hidden}, LSTM {config.text_lstm}, "
        f"fusion rank {config.fusion_rank}"
    )
    print(f"run directory: {options.output_dir}")


if __name__ == "__main__":
    sys.exit(run(main))
