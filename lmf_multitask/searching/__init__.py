"""Search for settings: what varies, the Optuna study, the trials, and the best settings under fresh seeds."""
