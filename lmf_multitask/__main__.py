"""``python -m lmf_multitask COMMAND`` and the console script ``lmf``: a table of commands, nothing else."""

from __future__ import annotations

import importlib
import sys

from lmf_multitask import __version__
from lmf_multitask.errors import suggestion

COMMANDS = {
    "train": ("lmf_multitask.train", "train one model on several emotions, or one for each, and test"),
    "evaluate": ("lmf_multitask.evaluate", "metrics of a trained run on a split"),
    "search": ("lmf_multitask.search", "many trainings over a space of settings; the best of them under fresh seeds"),
    "ablate": ("lmf_multitask.ablate", "what each part of a model brings, under several seeds"),
    "convert": ("lmf_multitask.convert", "another LMF code's checkpoint -> a run directory"),
    "export": ("lmf_multitask.export", "a trained run as static models: Paddle Inference, ONNX"),
    "infer": ("lmf_multitask.infer", "probabilities of a file's clips, from an exported model or a run"),
    "compare": ("lmf_multitask.compare", "are the differences between runs real?"),
    "report": ("lmf_multitask.report", "a page with tables and plots of a run, or of several"),
    "serve": ("lmf_multitask.serve", "an HTTP service of an exported model or a run, with a page to try it"),
    "doctor": ("lmf_multitask.doctor", "versions, devices, settings in force, and whether the installation works"),
    "benchmark": ("lmf_multitask.benchmark", "speed, size and distance from the limit, beside other fusions"),
    "data": ("lmf_multitask.data.__main__", "inspect or convert a data file, write the sample, empty the cache"),
}


def main() -> int:
    """Hands the arguments to the command's module; returns the exit status."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: lmf COMMAND [options]   (lmf COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()))
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"lmf_multitask {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        hint = suggestion(arguments[0], list(COMMANDS)) or f" Choose one of {', '.join(COMMANDS)}."
        print(f"error: unknown command {arguments[0]!r}.{hint}", file=sys.stderr)
        return 2
    from lmf_multitask.command_line import run

    return run(importlib.import_module(COMMANDS[arguments[0]][0]).main, arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
