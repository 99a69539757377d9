"""A checkpoint of another LMF code becomes a run directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.settings import ExperimentConfig, recipe_config
from lmf_multitask.runtime import quiet_imports

with quiet_imports():
    from lmf_multitask.models.convert import convert_checkpoint
    from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.config import build, check_name


def convert_run(
    checkpoint: str | Path, emotion: str, folder: str | Path, data_path: str | None = None, *, overwrite: bool = False
) -> LMFModel:
    """Makes a run directory of a checkpoint; it has no history and no metrics.

    Args:
        checkpoint: see `models.convert.convert_checkpoint`.
        emotion: what it recognises.
        folder: the run directory.
        data_path: the data that later commands evaluate it on by default.
        overwrite: replace a run that exists.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: the file is no such checkpoint, or the folder is not free; nothing has been written then.
    """
    check_name(emotion)
    run = Run(folder)
    run.check_free(overwrite)
    recipe = build(ExperimentConfig, recipe_config("lmf_paddle", emotion))
    dropouts = {name: getattr(recipe.model.encoders, name).dropout for name in MODALITIES}
    model = convert_checkpoint(checkpoint, emotion, dropouts)
    config = dataclasses.replace(recipe, data_path=data_path, output_dir=str(run.folder), model=model.config)
    run.start(config.resolved([emotion]))
    run.write_model(model)
    return model
