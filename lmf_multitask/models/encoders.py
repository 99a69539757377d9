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
    """Text: an LSTM over all L steps, padding included; its last state, dropout, a linear layer."""

    def __init__(self, features: int, lstm: int, hidden: int, dropout: float) -> None:
        """Builds the layers.

        Args:
            features: D, numbers per word.
            lstm: width of the LSTM's state.
            hidden: H, width of the output.
            dropout: probability that a number of the last state is dropped in training.
        """
        super().__init__()
        self.lstm = nn.LSTM(features, lstm)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(lstm, hidden)

    def forward(self, words: paddle.Tensor) -> paddle.Tensor:
        """Float32 `[B, L, D]` -> hidden, float32 `[B, H]`."""
        _, (last_state, _) = self.lstm(words)
        return self.linear(self.dropout(last_state.squeeze(0)))
