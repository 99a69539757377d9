"""From data to a run directory: load, fit, predict, assess, write; and what is made of several runs."""
