"""Parameters and operations by formula, against the networks and hand arithmetic."""

import numpy as np
import pytest
from conftest import PAPERS

from lmf_multitask.benchmarking.cost import Cost, cost_of, fusion_cost, order_of_growth
from lmf_multitask.config import ModelConfig

SIZES = {"audio": 5, "video": 4, "text": 3}
SMALL = {"audio_hidden": 3, "video_hidden": 2, "text_lstm": 4, "text_hidden": 2, "fusion_rank": 2, "fusion_dim": 6}


@pytest.mark.parametrize("fusion", ["lmf", "tfn", "concat", "late"])
@pytest.mark.parametrize("modalities", [["audio", "video", "text"], ["audio", "text"], ["video"]])
@pytest.mark.parametrize("dim", [6, None])
def test_parameters_are_those_of_the_network(fusion, modalities, dim):
    from lmf_multitask.models.lmf import LMFModel

    config = ModelConfig(**{**SMALL, "fusion": fusion, "modalities": modalities, "fusion_dim": dim})
    model = LMFModel(SIZES, ["a", "b", "c"], config)
    trainable = sum(int(np.prod(w.shape)) for w in model.weights().values() if not w.stop_gradient)
    assert cost_of(SIZES, 7, 3, config).parameters == trainable


def test_operations_by_hand():
    cost = cost_of(SIZES, words=7, tasks=2, config=ModelConfig(**{**PAPERS, **SMALL}))
    assert cost.projection == 7 * 2 * (3 * 16)  # 7 words, [3] x [3, 4 gates x 4]
    assert cost.recurrence == 7 * 2 * (4 * 16)
    text, audio, video = 2 * 4 * 2, 2 * (5 * 3 + 3 * 3 + 3 * 3), 2 * (4 * 2 + 2 * 2 + 2 * 2)
    # [4], [3], [3] x [., 6] of 2 terms; two products of 2 x 6 numbers; the sum over 2 terms; 2 heads [6] x [6, 2]
    fusion, heads = 2 * 2 * 6 * 10 + 2 * 12 + 2 * 12, 2 * 2 * 12
    assert cost.rest == text + audio + video + fusion + heads
    assert cost.forward == cost.projection + cost.recurrence + cost.rest
    assert cost.training == 2 * cost.projection + 3 * (cost.recurrence + cost.rest)


def test_fusions_by_hand():
    assert fusion_cost("tfn", [3, 2, 2], 2, 6, 2) == (36 * 6 + 6, 2 * 36 * 6 + 12 + 36)
    assert fusion_cost("concat", [3, 2, 2], 2, 6, 2) == (7 * 6 + 6, 2 * 7 * 6)
    assert fusion_cost("late", [3, 2, 2], 2, 6, 2) == (4 * (4 + 3 + 3), 2 * 4 * 7)


def test_orders_of_growth():
    assert order_of_growth("lmf", [3, 2, 2], 5, 6) == 6 * 5 * (4 + 3 + 3)
    assert order_of_growth("tfn", [3, 2, 2], 5, 6) == 6 * 4 * 3 * 3


def test_several_networks_add_up():
    assert Cost(1, 2, 3, 4) + Cost(10, 20, 30, 40) == Cost(11, 22, 33, 44)


def test_the_papers_four_networks():
    """The released checkpoints' sizes; happy's parameters counted by hand."""
    from lmf_multitask.benchmarking.measure import contenders

    separate = next(c for c in contenders() if len(c.parts) == 4)
    happy = cost_of({"audio": 74, "video": 35, "text": 300}, 20, 1, separate.parts[0][1])
    audio, video = 148 + 75 * 4 + 2 * 5 * 4, 70 + 36 * 16 + 2 * 17 * 16
    text = 512 * (300 + 128 + 2) + 129 * 64
    assert happy.parameters == audio + video + text + 2 * (5 + 17 + 65) + 1 + 2
