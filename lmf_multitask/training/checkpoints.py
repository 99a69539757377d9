"""Checkpoints of a training: tensors in safetensors files, everything else in JSON; each checkpoint is complete or absent.

No byte of a checkpoint is unpickled: every name, dtype, shape and number is checked before it is used.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import pydantic
import safetensors.numpy
from pydantic import AfterValidator, Field, NonNegativeInt

from lmf_multitask.errors import RunError, TrainingError, printable
from lmf_multitask.files import (
    atomic_folder,
    damage,
    read_bytes,
    read_text,
    remove_leftovers,
    write_manifest,
)
from lmf_multitask.runtime import quiet_imports

with quiet_imports():
    import paddle

if TYPE_CHECKING:
    from lmf_multitask.training.module import TrainingModule

logger = logging.getLogger(__name__)

_LARGEST = 1 << 34  # bytes of a file: four times the largest network and its optimiser
_MODEL_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_PROGRESS_FILE = "progress.json"
_STATE_FILE = "trainer_state.json"  # PaddleNLP's name

# -- what a checkpoint holds beside tensors

_STRICT = pydantic.ConfigDict(strict=True, extra="forbid")


def _check_position(words: list[int]) -> list[int]:
    if words[-1] >= len(words):
        raise ValueError("must end with a position in the generator's state")
    return words


# states of Mersenne twisters: their words, then the position of the next one
_Twister32 = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=625, max_length=625), AfterValidator(_check_position)
]
_Twister64 = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**64)]], Field(min_length=313, max_length=313), AfterValidator(_check_position)
]


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class PaddleGenerator:
    """State of one of Paddle's random generators."""

    seed: Annotated[int, Field(ge=0, lt=2**64)]
    offset: Annotated[int, Field(ge=0, lt=2**63)]
    engine: _Twister64


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class RandomStates:
    """States of a process's random generators: Python's, numpy's global one, Paddle's (of the CPU, then of each GPU)."""

    python: _Twister32
    python_gauss: float | None
    numpy: _Twister32
    numpy_gauss: float | None
    paddle: list[PaddleGenerator]

    @classmethod
    def current(cls) -> RandomStates:
        """The states as they are now."""
        _, python, python_gauss = random.getstate()
        numpy: Any = np.random.get_state()
        _, words, position, has_gauss, gauss = numpy
        generators = []
        for generator in _paddle_generators():
            _, seed, offset, engine = generator.get_state().__getstate__()  # C++ writes the engine as decimal text
            generators.append(PaddleGenerator(seed, offset, [int(word) for word in bytes(engine).split()]))
        return cls(
            list(python), python_gauss, [*words.tolist(), int(position)], gauss if has_gauss else None, generators
        )

    def restore(self) -> None:
        """Sets the generators to these states.

        Raises:
            RunError: they were taken on a machine with another number of GPUs.
        """
        generators = _paddle_generators()
        if len(generators) != len(self.paddle):
            raise RunError(
                f"random states must be of {len(generators)} devices, but are of {len(self.paddle)}. "
                "Resume on the same number of GPUs."
            )
        random.setstate((3, tuple(self.python), self.python_gauss))
        has_gauss, gauss = (0, 0.0) if self.numpy_gauss is None else (1, self.numpy_gauss)
        np.random.set_state(("MT19937", np.array(self.numpy[:-1], np.uint32), self.numpy[-1], has_gauss, gauss))
        for generator, saved in zip(generators, self.paddle):
            device = generator.get_state().__getstate__()[0]
            state = paddle.base.core.GeneratorState.__new__(paddle.base.core.GeneratorState)
            seed = saved.seed - (saved.seed >> 63 << 64)  # it takes a signed number
            state.__setstate__((device, seed, saved.offset, list(" ".join(map(str, saved.engine)).encode())))
            generator.set_state(state)


def _paddle_generators() -> list[Any]:
    core: Any = paddle.base.core
    gpus = range(core.get_cuda_device_count()) if core.is_compiled_with_cuda() else ()
    return [core.default_cpu_generator(), *(core.default_cuda_generator(number) for number in gpus)]


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class Progress:
    """How far a training has come.

    Attributes:
        history: one dict per finished epoch.
        epochs_without_better: how many of the last epochs were not better than the best.
        best_checkpoint: name of the checkpoint of the best epoch.
        logged: of an unfinished epoch: name -> (value, rows) of each step.
        schedulers: state of each learning-rate scheduler.
        random_states: of each process.
    """

    history: list[dict[str, int | float]]
    epochs_without_better: NonNegativeInt
    best_checkpoint: Annotated[str, Field(pattern=r"^checkpoint-[0-9]+$")] | None
    logged: dict[str, list[tuple[int | float, NonNegativeInt]]]
    schedulers: list[dict[str, Any]]
    random_states: list[RandomStates]


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class State:
    """The part of PaddleNLP's ``TrainerState`` that a resumed training needs; Trainer reads this file as well.

    Attributes:
        epoch: finished epochs, with the fraction of the current one.
        global_step: finished optimiser updates.
        best_metric: value of the monitored metric in the best epoch.
    """

    epoch: float
    global_step: NonNegativeInt
    best_metric: int | float | None


def read_progress(checkpoint: Path) -> Progress:
    """Reads how far a training had come; checks the file that Trainer reads, too.

    Raises:
        RunError: a field is missing, unknown, of another type, or out of its range.
    """
    _read(checkpoint / _STATE_FILE, State)
    return _read(checkpoint / _PROGRESS_FILE, Progress)


_Content = TypeVar("_Content", Progress, State)


def _read(path: Path, kind: type[_Content]) -> _Content:
    text = read_text(path, 1 << 28, RunError)
    try:
        return pydantic.TypeAdapter(kind).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = printable(".".join(map(str, first["loc"]))[:80]) or "content"
        message = first["msg"].removeprefix("Value error, ")
        raise RunError(f"{path}: {where} must be as it was written, but: {message}. Delete that checkpoint.") from None


# -- tensors


def _module_tensors(module: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Parameters and buffers by name; a tensor that has several names (those of an LSTM) occurs once."""
    tensors, seen = {}, set()
    for name, tensor in module.state_dict().items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _optimizer_tensors(optimizer: Any, module: TrainingModule) -> dict[str, paddle.Tensor]:
    """Accumulators of an optimiser as ``PARAMETER/ACCUMULATOR``, by the parameter's name in the module.

    Paddle's own names depend on how many layers the process has built before.

    Raises:
        TrainingError: a parameter does not belong to the module.
    """
    names = {parameter.name: name for name, parameter in module.optimized_parameters().items()}
    tensors = {}
    for accumulator, of_parameters in optimizer._accumulators.items():
        for parameter, tensor in of_parameters.items():
            if parameter not in names:
                raise TrainingError(
                    f"the optimizer must update parameters of the module only, but got {parameter}. "
                    "Make it an attribute of the module, or of one of its layers."
                )
            tensors[f"{names[parameter]}/{accumulator}"] = tensor
    return tensors


def _write_tensors(path: Path, tensors: Mapping[str, paddle.Tensor]) -> None:
    path.write_bytes(safetensors.numpy.save({name: tensor.numpy() for name, tensor in tensors.items()}))


def _read_tensors(path: Path, expected: Callable[[set[str]], Mapping[str, paddle.Tensor]]) -> None:
    """Sets tensors to the values in a safetensors file.

    Args:
        path: the file.
        expected: gives the tensors to set, by name, for the set of names in the file.

    Raises:
        RunError: names, dtypes or shapes differ; no tensor has been changed then.
    """
    content = read_bytes(path, _LARGEST, RunError)
    try:
        found = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"{path}: must be a safetensors file, but {printable(str(error))}. Delete that checkpoint."
        ) from None
    tensors = expected(set(found))
    different = sorted(set(found) ^ set(tensors))
    for name, tensor in tensors.items():
        own = tensor.numpy()
        if name in found and (own.dtype, own.shape) != (found[name].dtype, found[name].shape):
            different.append(name)
    if different:
        raise RunError(
            f"{path}: must hold the tensors of this training, but {printable(different[0][:80])} is missing, unknown, "
            "or has another dtype or shape. Resume with the module and the optimizer of the checkpoint."
        )
    for name, tensor in tensors.items():
        tensor.set_value(found[name])


def read_module(checkpoint: Path, module: paddle.nn.Layer) -> None:
    """Gives a module the parameters and buffers in a checkpoint.

    Raises:
        RunError: they are not those of this module, which is unchanged then.
    """
    _read_tensors(checkpoint / _MODEL_FILE, lambda names: _module_tensors(module))


def read_optimizer(checkpoint: Path, optimizer: Any, module: TrainingModule) -> None:
    """Gives a new optimiser the accumulators in a checkpoint.

    Raises:
        RunError: they are not those of this optimiser.
    """

    def expected(names: set[str]) -> dict[str, paddle.Tensor]:
        owners = {name.rpartition("/")[0] for name in names}
        parameters = [weight for name, weight in module.optimized_parameters().items() if name in owners]
        # Paddle creates accumulators in the first step, for parameters with a gradient; its own way to restore
        # them (set_state_dict) needs the names of the saved process
        optimizer._create_accumulators(paddle.base.framework.default_main_program().global_block(), parameters)
        return _optimizer_tensors(optimizer, module)

    _read_tensors(checkpoint / _OPTIMIZER_FILE, expected)


def restore_schedulers(checkpoint: Path, schedulers: list[Any]) -> None:
    """Sets schedulers to the states in a checkpoint.

    Raises:
        RunError: they are not states of these schedulers.
    """
    states = read_progress(checkpoint).schedulers
    if [_layout(state) for state in states] != [_layout(scheduler.state_dict()) for scheduler in schedulers]:
        raise RunError(
            f"{checkpoint}: schedulers must be those of this training, but differ from them. "
            "Resume with the learning-rate schedule of the checkpoint."
        )
    for scheduler, state in zip(schedulers, states):
        scheduler.set_state_dict(state)


def _layout(value: Any) -> Any:
    """Names in a scheduler's state, and whether they stand for numbers."""
    return (
        {name: _layout(v) for name, v in value.items()} if isinstance(value, dict) else isinstance(value, (int, float))
    )


# -- folders


def write_checkpoint(
    path: Path, module: TrainingModule, optimizer: Any, schedulers: list[Any], state: State, progress: dict[str, Any]
) -> None:
    """Writes a checkpoint, complete or not at all.

    Args:
        path: its folder.
        module: the module.
        optimizer: the optimiser.
        schedulers: its learning-rate schedulers.
        state: for Trainer.
        progress: fields of `Progress`, without those of the schedulers.
    """
    content = Progress(schedulers=[dict(scheduler.state_dict()) for scheduler in schedulers], **progress)
    with atomic_folder(path) as folder:
        _write_tensors(folder / _MODEL_FILE, _module_tensors(module))
        _write_tensors(folder / _OPTIMIZER_FILE, _optimizer_tensors(optimizer, module))
        for name, part in ((_PROGRESS_FILE, content), (_STATE_FILE, state)):
            (folder / name).write_text(json.dumps(part, default=vars))
        write_manifest(folder)


def step_of(checkpoint: Path) -> int:
    """Number of optimiser updates before a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, by step; links are left out."""
    found = (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-[0-9]{1,18}", path.name))
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=step_of)


def last_complete(folder: Path) -> Path | None:
    """Finds the newest checkpoint that is undamaged, and whose best epoch is; the others are named in warnings.

    Temporary files that an interrupted process left are removed.
    """
    remove_leftovers(folder)
    for path in reversed(checkpoints(folder)):
        problem = damage(path)
        if problem is None:
            best = best_checkpoint(path)
            if best is not None and best != path and (problem := damage(best)) is not None:
                problem = f"that of the best epoch, {best.name}, is damaged: {problem}"
        if problem is None:
            return path
        logger.warning("%s: must be an undamaged checkpoint, but %s. It is ignored.", path, problem)
    return None


def best_checkpoint(checkpoint: Path) -> Path | None:
    """The checkpoint of the best epoch up to this one; it is in the same folder, wherever that has been moved."""
    name = read_progress(checkpoint).best_checkpoint
    return None if name is None else checkpoint.with_name(name)


def remove_after(folder: Path, step: int) -> None:
    """Removes checkpoints of later steps: they belong to an earlier training, or are damaged."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            shutil.rmtree(path)


def rotate(folder: Path, limit: int | None, best: Path | None) -> None:
    """Removes the oldest checkpoints, so that `limit` of them are left; the last and the best are always kept."""
    found = checkpoints(folder)
    if not limit or not found:
        return
    kept = list(dict.fromkeys([found[-1], *([best] if best in found else [])]))
    kept += [path for path in reversed(found) if path not in kept][: max(limit - len(kept), 0)]
    for path in found:
        if path not in kept:
            shutil.rmtree(path)
