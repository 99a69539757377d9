"""Search for settings: what varies, the study that remembers every trial, and what becomes of the best ones."""
