"""The Lightning-style loop on PaddleNLP's Trainer. `trainer.py` is the only file that imports paddlenlp."""

from lmf_multitask.runtime import quiet_imports

with quiet_imports():
    import paddle  # noqa: F401 - imported here once, quietly, for all modules of this package
