"""``python -m lmf_multitask COMMAND`` and the console script ``lmf``: a table of commands, nothing else."""

from __future__ import annotations

import importlib
import sys

from lmf_multitask import __version__
from lmf_multitask.errors import suggestion

GROUPS = {
    "Data": {
        "data": ("lmf_multitask.data.__main__", "inspect or convert a data file, write the sample, clear the cache"),
    },
    "Training": {
        "train": ("lmf_multitask.train", "train one model for all tasks, or the paper's separate models, and test"),
        "search": ("lmf_multitask.search", "search for settings; train the best ones again under new seeds"),
        "ablate": ("lmf_multitask.ablate", "measure what each part of a model contributes, under several seeds"),
        "convert": ("lmf_multitask.convert", "turn a checkpoint of another LMF code into a run directory"),
    },
    "Evaluation": {
        "evaluate": ("lmf_multitask.evaluate", "compute the metrics of a run on a split"),
        "compare": ("lmf_multitask.compare", "test whether differences between models are real"),
        "report": ("lmf_multitask.report", "write a page with tables and plots of one or several runs"),
    },
    "Deployment": {
        "export": ("lmf_multitask.export", "export a run as static models: Paddle Inference, ONNX"),
        "infer": ("lmf_multitask.infer", "write the predictions for the clips of a file"),
        "serve": ("lmf_multitask.serve", "serve a model over HTTP, with a page to try it"),
    },
    "This machine": {
        "doctor": ("lmf_multitask.doctor", "check the installation; show versions, devices and settings"),
        "benchmark": ("lmf_multitask.benchmark", "measure speed and memory next to other fusions"),
    },
}
COMMANDS = {name: entry for commands in GROUPS.values() for name, entry in commands.items()}
"""Name of a command -> its module, and what it does."""


def main() -> int:
    """Hands the arguments to the command's module; returns the exit status."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: lmf COMMAND [options]     (lmf COMMAND --help shows the options of a command)")
        for title, commands in GROUPS.items():
            print(f"\n{title}")
            print("\n".join(f"  {name:<10} {text}" for name, (_, text) in commands.items()))
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
