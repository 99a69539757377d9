"""Options of the commands that run a model."""

from __future__ import annotations

import argparse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how a model is run, which ``infer`` and ``serve`` share."""
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="what lmf export wrote, or a run directory")
    parser.add_argument(
        "--backend", choices=["auto", "paddle", "onnx"], default="auto", help="auto: onnx where it is available"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument(
        "--threads", type=int, default=1, help="of the math library; default: 1, the fastest that was measured"
    )
