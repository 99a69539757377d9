"""The network: encoders, fusions, heads; and checkpoints of other LMF codes."""
