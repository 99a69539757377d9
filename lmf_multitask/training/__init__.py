"""Training: steps, losses, the trainer on top of PaddleNLP's, checkpoints."""
