"""Paddle for the files of encoders and fusions, which are imported without it where only their settings are needed.

``lmf train --help`` must not wait for Paddle, and the settings of the processor must be in force before it is imported.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

from lmf_multitask.runtime import quiet_imports

if TYPE_CHECKING:
    import paddle
    from paddle import nn
    from paddle.nn import functional as F
    from paddle.nn import initializer

    Layer = nn.Layer
else:

    class _Lazy:
        """A module that is imported when something of it is used."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if self._name not in sys.modules:
                with quiet_imports():
                    importlib.import_module(self._name)
            return getattr(sys.modules[self._name], name)

    paddle, nn = _Lazy("paddle"), _Lazy("paddle.nn")
    F, initializer = _Lazy("paddle.nn.functional"), _Lazy("paddle.nn.initializer")

    class Layer:
        """Base of layers; their objects are `paddle.nn.Layer`s."""

        def __new__(cls, *positional: Any, **named: Any) -> Any:
            """An object of the class with `paddle.nn.Layer` as its base."""
            return object.__new__(cls if issubclass(cls, nn.Layer) else _with_paddle(cls))

    @functools.cache
    def _with_paddle(cls: type) -> type:
        return type(cls.__name__, (cls, nn.Layer), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def fixed_parameter(layer: nn.Layer, shape: list[int], value: float) -> paddle.Tensor:
    """A parameter that is saved with the weights, and that training does not change."""
    parameter = layer.create_parameter(shape, default_initializer=initializer.Constant(value))
    parameter.stop_gradient, parameter.trainable = True, False
    parameter.fixed = True
    return parameter


__all__ = ["F", "Layer", "fixed_parameter", "initializer", "nn", "paddle"]
