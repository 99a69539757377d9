"""One hidden vector per modality (Liu, Shen et al. 2018, section 4.2: unimodal networks).

Shape letters: B batch, L words, D feature dimensions, H hidden size.
"""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional as F


class FeatureEncoder(nn.Layer):
    """Audio or video: batch normalisation, dropout, three ReLU layers of one width."""

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        """Builds the layers.

        Args:
            features: D, numbers per clip.
            hidden: H, width of the three layers.
            dropout: probability that a feature is dropped in training.
        """
        super().__init__()
        self.norm = nn.BatchNorm1D(features)
        self.dropout = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(features, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """Float32 `[B, D]` -> hidden, float32 `[B, H]`."""
        x = self.dropout(self.norm(features))
        x = F.relu(self.linear_1(x))
        x = F.relu(self.linear_2(x))
        return F.relu(self.linear_3(x))


class TextEncoder(nn.Layer):
    """Text: an LSTM over all L steps, one of its states, dropout, a linear layer.

    Which state: the last one, padding included, as the reference codes have it; or with ``last_word`` the one after the
    clip's last word, a word being a vector that is not all zeros. Padding behind the last word then has no influence;
    padding in front of it or between words is passed over as before, and a clip without any word has the state after its
    first step. (All steps are computed in both cases: batches of clips of one length, or shorter halves of a batch, were
    measured to be slower than the steps that they save.)
    """

    def __init__(self, features: int, lstm: int, hidden: int, dropout: float, last_word: bool = False) -> None:
        """Builds the layers.

        Args:
            features: D, numbers per word.
            lstm: width of the LSTM's state.
            hidden: H, width of the output.
            dropout: probability that a number of the state is dropped in training.
            last_word: take the state after the clip's last word.
        """
        super().__init__()
        self.lstm = nn.LSTM(features, lstm)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(lstm, hidden)
        self.last_word = last_word

    def forward(self, words: paddle.Tensor) -> paddle.Tensor:
        """Float32 `[B, L, D]` -> hidden, float32 `[B, H]`."""
        states, (last_state, _) = self.lstm(words)
        if self.last_word:
            state = paddle.gather_nd(states, _places_of_last_words(words))
        else:
            state = last_state.squeeze(0)
        return self.linear(self.dropout(state))


def _places_of_last_words(words: paddle.Tensor) -> paddle.Tensor:
    """Float32 `[B, L, D]` -> int64 `[B, 2]`: clip, and the number of its last step that is not all zeros (0 without any)."""
    is_word = (words != 0).any(axis=-1)
    steps = paddle.arange(words.shape[1])
    last = (is_word.astype("int64") * steps).max(axis=1)
    return paddle.stack([paddle.arange(words.shape[0]), last], axis=1)
