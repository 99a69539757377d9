"""Published weighted F1 on IEMOCAP's test split (938 clips), to stand beside a user's own figures."""

LMF_PAPER = {"happy": 0.858, "sad": 0.859, "angry": 0.890, "neutral": 0.717}
"""Liu, Shen et al. 2018, one model per emotion; as quoted in LMF_Paddle's README."""

LMF_PADDLE = {"happy": 0.8583, "sad": 0.8626, "angry": 0.8912, "neutral": 0.7183}
"""The Paddle reproduction 18XiWenjuan/LMF_Paddle, one model per emotion; its README, rounded."""
