"""The OpenAPI document of the service: what a body and an answer look like."""

from __future__ import annotations

from typing import Any

from lmf_multitask.deployment.bodies import JSON_TYPE, NPZ_TYPES
from lmf_multitask.deployment.description import ModelDescription

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_ERRORS = {
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is neither JSON nor .npz.",
    421: "The request was sent to a host name that is not ours.",
    422: "The body does not fit the model, or has too many clips.",
    429: "Too many clips are waiting: try again in a moment.",
    503: "The service is stopping.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of error answers, by status."""
    return {one: {"description": _ERRORS[one], "content": {JSON_TYPE: {"schema": _ERROR}}} for one in (421, *statuses)}


def body_schema(description: ModelDescription) -> dict[str, Any]:
    """The body of /predict."""

    def lists(sizes: list[Any]) -> dict[str, Any]:
        if not sizes:
            return {"type": "number"}
        fixed = {"minItems": sizes[0], "maxItems": sizes[0]} if isinstance(sizes[0], int) else {"minItems": 1}
        return {"type": "array", "items": lists(sizes[1:]), **fixed}

    numbers = {
        "type": "object",
        "properties": {name: lists(list(description.shape(name))) for name in description.inputs},
        "minProperties": 1,
        "additionalProperties": False,
        "description": "one entry per clip in each; a modality that is left out is missing in every clip",
    }
    binary = {"type": "string", "format": "binary", "description": "numpy.savez(file, audio=..., video=..., text=...)"}
    content = {JSON_TYPE: {"schema": numbers}, **{kind: {"schema": binary} for kind in NPZ_TYPES}}
    return {"required": True, "content": content}


def answer_schema(description: ModelDescription) -> dict[str, Any]:
    """The answer of /predict."""
    emotions = [description.emotions[t] for t in description.binary]
    probability = {"type": "number", "minimum": 0, "maximum": 1}

    def rows(item: dict[str, Any]) -> dict[str, Any]:
        inner = {"type": "array", "items": item, "minItems": len(emotions), "maxItems": len(emotions)}
        return {"type": "array", "items": inner}

    decided = {
        "type": "object",
        "properties": {"emotion": {"type": "string", "enum": emotions}, "probability": probability},
        "required": ["emotion", "probability"],
        "additionalProperties": False,
    }
    properties = {
        "emotions": {"type": "array", "items": {"type": "string"}},
        "probabilities": rows(probability),
        "present": rows({"type": "boolean"}),
        "missing": {
            "type": "object",
            "additionalProperties": {"type": "integer", "minimum": 0},
            "description": "modality that the model uses -> clips that lack it (zeros, or left out)",
        },
        "missing_in": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "description": "the same -> numbers of these clips, counted from 0",
        },
    }
    if description.regression:
        column = {"type": "array", "items": {"type": "number"}}
        properties["values"] = {
            "type": "object", "properties": dict.fromkeys(description.regression, column),
            "required": list(description.regression), "additionalProperties": False,
            "description": "real-valued task -> value per clip, in the unit of its labels",
        }  # fmt: skip
    if description.exclusive:
        properties["decided"] = {"type": "array", "items": decided}
    schema = {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip
    return {"description": "Per clip and emotion", "content": {JSON_TYPE: {"schema": schema}}}
