"""Commands load PaddleNLP's Trainer without the rest of paddlenlp, if they can. (Other programs: test_trainer.py.)"""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from lmf_multitask.training.paddlenlp import TESTED

LOAD = """
import importlib.metadata, json, sys
import lmf_multitask.runtime
lmf_multitask.runtime.prepare_process()
import paddle
{before}
from lmf_multitask.training import paddlenlp as ours
loaded = [name for name in sys.modules if name.startswith("paddlenlp")]
import paddlenlp
print(json.dumps([len(loaded), paddlenlp.trainer.Trainer is ours.Trainer, paddlenlp.transformers.GPTModel.__name__]))
"""


def load(before):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD.format(before=before)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_version_is_the_installed_one():
    assert version("paddlenlp") == TESTED


def test_the_rest_can_be_loaded_later():
    assert load("") == [0, False, "GPTModel"]


OTHER_VERSION = """
version = importlib.metadata.version
importlib.metadata.version = lambda name: "3.1.0" if name == "paddlenlp" else version(name)
"""
FAILURE = """
load = importlib.import_module
def import_module(name, package=None):
    return load("nothing" if name == "paddlenlp.trainer.trainer" else name, package)
importlib.import_module = import_module
"""


@pytest.mark.parametrize("before", [OTHER_VERSION, FAILURE], ids=["version", "failure"])
def test_otherwise_all_of_it_is_loaded(before):
    loaded, same, _ = load(before)
    assert loaded > 300
    assert same
