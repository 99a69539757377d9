"""The data that an experiment's settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.iemocap import load_iemocap
from lmf_multitask.data.sample import builtin_sample

if TYPE_CHECKING:
    import datasets

SAMPLE_NOTE = "These figures are from the built-in sample of made-up clips: they say nothing of IEMOCAP."


def load_data(config: ExperimentConfig) -> datasets.DatasetDict:
    """The data of an experiment; the built-in sample where it names none.

    Raises:
        DataError: see `load_iemocap`.
    """
    path, data = config.data_path or builtin_sample(), config.data
    return load_iemocap(
        path, config.emotions, label_column=data.label_column, non_finite=data.non_finite, cache_dir=data.cache_dir
    )
