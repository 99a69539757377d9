"""The network: tensors in, logits out. Needs Paddle, and neither paddlenlp nor `datasets`."""

from lmf_multitask.runtime import quiet_imports

with quiet_imports():
    import paddle  # noqa: F401 - imported here once, quietly, for all modules of this package
