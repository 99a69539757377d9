"""Evaluation of predictions: numpy, scipy, scikit-learn, matplotlib; no Paddle."""
