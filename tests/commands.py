"""Runs commands as a user does: many in one fresh process, since importing Paddle takes longer than most of them."""

import contextlib
import importlib
import io
import json
import logging
import subprocess
import sys

from lmf_multitask.__main__ import COMMANDS
from lmf_multitask.command_line import run

_DRIVER = """
import contextlib, importlib, io, json, sys, traceback
from lmf_multitask.command_line import run

found = []
for module, arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [module, *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if module == "lmf_multitask.__main__":
                status = importlib.import_module(module).main()
            else:
                status = run(importlib.import_module(module).main)
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
            status = 1
    found.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def run_all(commands, cwd):
    """[(module, arguments)] -> [(status, stdout, stderr)], one after the other in one process."""
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER],
        input=json.dumps([[module, list(map(str, arguments))] for module, arguments in commands]),
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def run_here(name, *arguments):
    """``lmf NAME ...`` in this process: its status and what it prints, as of a process of its own. Its children are processes."""
    out, err = io.StringIO(), io.StringIO()
    with logging_as_before(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(importlib.import_module(COMMANDS[name][0]).main, list(map(str, arguments)))
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def logging_as_before():
    """`command_line.run` sets a process up for one command; tests that call it share theirs with others."""
    loggers = [logging.getLogger(name) for name in ("lmf_multitask", "py.warnings")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (level, propagate, handlers) in zip(loggers, before):
            logger.setLevel(level)
            logger.propagate, logger.handlers[:] = propagate, handlers


def run_one(*arguments, cwd, **settings):
    """`python -m ...` in a process of its own, with everything that it prints."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, **settings
    )
