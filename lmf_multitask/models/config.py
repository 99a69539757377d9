"""Settings of the network; the sizes of features and tasks come from the data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from lmf_multitask.config import kind_setting, setting, settings
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.models.encoders import ENCODERS
from lmf_multitask.models.fusion import FUSIONS


def _encoders() -> dict[str, Any]:
    return ENCODERS


def _fusions() -> dict[str, Any]:
    return FUSIONS


@settings
class Encoders:
    """One encoder per modality."""

    audio: Any = kind_setting(table=_encoders, default={"kind": "mlp", "hidden": 32}, help="encoder of audio")
    video: Any = kind_setting(table=_encoders, default={"kind": "mlp", "hidden": 16}, help="encoder of video")
    text: Any = kind_setting(table=_encoders, default={"kind": "lstm"}, help="encoder of text")


def _in_order(chosen: list[str]) -> list[str]:
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"must name each modality once, but got {chosen}.")
    return [name for name in MODALITIES if name in chosen]


@settings
class ModelConfig:
    """Parts and sizes of the network."""

    encoders: Encoders = setting(default=Encoders, help="one encoder per modality")
    fusion: Any = kind_setting(table=_fusions, default={"kind": "lmf"}, help="how the modalities are fused")
    head_dropout: float = setting(default=0.3, help="dropout of the fused vector, in front of the heads", ge=0, lt=1)
    linear: bool = setting(
        default=True,
        help="a linear model of the averaged features beside the network; after training, weights of both are fitted on "
        "validation, and thresholds for weighted F1; false: the network alone, thresholds of one half (the paper's)",
    )
    modality_dropout: float | None = setting(
        default=0.1,
        help="probability that a clip loses a modality in training; null: missing modalities are not masked (the paper's)",
        ge=0,
        lt=1,
    )
    modalities: Annotated[list[Literal["audio", "video", "text"]], AfterValidator(_in_order)] = setting(
        default=lambda: list(MODALITIES), help="modalities that the network uses", min_length=1
    )
