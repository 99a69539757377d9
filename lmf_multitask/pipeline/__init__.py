"""From settings to a run directory: load, fit, predict, assess, write; and trainings that belong together."""
