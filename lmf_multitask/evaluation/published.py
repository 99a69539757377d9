"""Published results on the test split of IEMOCAP (938 clips), shown beside a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmf_multitask.data.schema import LMF_SPLIT, POM_TRAITS

LMF_PAPER = {"happy": 0.858, "sad": 0.859, "angry": 0.890, "neutral": 0.717}
"""Liu, Shen et al. 2018, one model per emotion; as quoted in LMF_Paddle's README."""

LMF_PADDLE = {"happy": 0.8583, "sad": 0.8626, "angry": 0.8912, "neutral": 0.7183}
"""The Paddle reproduction 18XiWenjuan/LMF_Paddle, one model per emotion; its README, rounded."""


RECALLED = {
    "SVM": (0.815, 0.788, 0.824, 0.649),
    "DF": (0.810, 0.812, 0.654, 0.440),
    "BC-LSTM": (0.817, 0.817, 0.842, 0.641),
    "MV-LSTM": (0.813, 0.740, 0.843, 0.667),
    "MARN": (0.836, 0.812, 0.842, 0.659),
    "MFN": (0.840, 0.821, 0.837, 0.692),
    "TFN": (0.836, 0.828, 0.842, 0.654),
    "MulT": (0.886, 0.860, 0.870, 0.707),
}
"""Weighted F1 of the emotions of `LMF_PAPER`, second-hand: not seen in the tables themselves, those of Liu, Shen et al. 2018 (arXiv
1806.00064) and, for MulT, of Tsai et al. 2019 (arXiv 1906.00295, word-aligned)."""

PUBLISHED: dict[str, dict[str, float]] = {
    **{f"{name} (second-hand)": dict(zip(LMF_PAPER, values)) for name, values in RECALLED.items()},
    "LMF": LMF_PAPER,
    "LMF_Paddle": LMF_PADDLE,
}
"""Model, a separate one per emotion and one seed each -> emotion -> weighted F1."""


def is_lmf_split(emotions: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether metrics are of the test split of the published ones, judged by the numbers of clips.

    Args:
        emotions: name -> ``annotated`` and ``support``, as in ``metrics.json``.
    """
    return all(
        one.get("support") == LMF_SPLIT.get(name) and one.get("annotated") == sum(LMF_SPLIT.values())
        for name, one in emotions.items()
    )


# -- MOSI and POM

VALUE_KEYS = {
    "CMU-MOSI": ("mae", "pearson", "acc2_negative_nonnegative", "f1_negative_nonnegative", "acc7"),
    "POM": ("mae", "pearson", "acc7"),
}
"""Data set -> keys of `METRICS` of its published results; those of POM are means over its 16 traits."""

PUBLISHED_VALUES: dict[str, dict[str, tuple[float | None, ...]]] = {
    "CMU-MOSI": {
        "SVM": (1.864, 0.057, 0.502, 0.501, 0.175),
        "DF": (1.143, 0.518, 0.723, 0.721, 0.268),
        "BC-LSTM": (1.079, 0.581, 0.739, 0.739, 0.287),
        "MV-LSTM": (1.019, 0.601, 0.739, 0.740, 0.332),
        "MARN": (0.968, 0.625, 0.771, 0.770, 0.347),
        "MFN": (0.965, 0.632, 0.774, 0.773, 0.341),
        "TFN": (0.970, 0.633, 0.739, 0.734, 0.321),
        "LMF": (0.912, 0.668, 0.764, 0.757, 0.328),
    },
    "POM": {
        "SVM": (0.887, 0.104, 0.339),
        "DF": (0.869, 0.144, 0.341),
        "BC-LSTM": (0.840, 0.278, 0.348),
        "MV-LSTM": (0.891, 0.270, 0.346),
        "MARN": (None, None, 0.394),
        "MFN": (0.835, 0.349, 0.417),
        "TFN": (0.886, 0.093, 0.316),
        "LMF": (0.796, 0.396, 0.428),
    },
}
"""Data set -> model -> values of `VALUE_KEYS`, of the same table as above; recalled, all of them second-hand."""


def published_data_set(values: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The data set with published results whose test split these real-valued tasks are; None for any other.

    Args:
        values: name of a real-valued task -> its metrics, with ``annotated``.
    """
    counts = {name: one["annotated"] for name, one in values.items() if "acc7" in one}
    if counts == {"sentiment": 686} and "acc5" in values["sentiment"]:
        return "CMU-MOSI"
    return "POM" if counts == dict.fromkeys(POM_TRAITS, 203) else None
