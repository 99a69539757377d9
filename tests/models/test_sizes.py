import pytest

from lmf_multitask.config import ModelConfig
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.models.sizes import weight_shapes

SIZES = {"audio": 5, "video": 4, "text": 3}


@pytest.mark.parametrize("fusion", ["lmf", "tfn", "concat", "late"])
@pytest.mark.parametrize("fusion_dim", [None, 6])
@pytest.mark.parametrize("modalities", [["audio", "video", "text"], ["audio", "text"], ["video"]])
def test_shapes_told_are_those_that_are_built(fusion, fusion_dim, modalities):
    config = ModelConfig(
        audio_hidden=3,
        video_hidden=2,
        text_lstm=4,
        text_hidden=7,
        fusion=fusion,
        fusion_dim=fusion_dim,
        modalities=modalities,
    )
    model = LMFModel(SIZES, ["happy", "sad"], config)
    assert weight_shapes(SIZES, 2, config) == {name: tuple(value.shape) for name, value in model.weights().items()}
