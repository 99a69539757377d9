"""The data that an experiment's settings name."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.iemocap import load_iemocap
from lmf_multitask.data.sample import builtin_sample
from lmf_multitask.data.schema import column_arrays, missing_rows
from lmf_multitask.errors import DataError

logger = logging.getLogger(__name__)

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


def missing_in_train(dataset: datasets.DatasetDict, looked_at: Sequence[str]) -> list[str]:
    """Those of the modalities to look at that no clip of train has; says so, and how many clips lack another one.

    A modality is missing in a clip when all its features are zero there.

    Raises:
        DataError: all of them are missing.
    """
    count, gaps = len(dataset["train"]), missing_rows(column_arrays(dataset["train"]))
    gaps = {modality: rows for modality, rows in gaps.items() if modality in looked_at}
    absent = [modality for modality, rows in gaps.items() if rows == count]
    if len(absent) == len(gaps):
        raise DataError(
            f"train must have clips with {' or '.join(absent)}, but {' and '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} missing in every clip. Choose others with --model.modalities."
        )
    if absent:
        logger.warning(
            "%s missing in every clip of train: nothing can be learnt of it, so the network is built without",
            f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'}",
        )
    for modality, rows in gaps.items():
        if 0 < rows < count:
            logger.info("%s is missing (all zero) in %s of %s clips of train", modality, f"{rows:,}", f"{count:,}")
    return absent


def without(config: ExperimentConfig, absent: Sequence[str]) -> ExperimentConfig:
    """The same settings with a network that has no part for the absent modalities."""
    left = [modality for modality in config.model.modalities if modality not in absent]
    return dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=left))
