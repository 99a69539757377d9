"""How fast, how large and how far from the hardware's limit: formulas, measurements, tables and a figure."""
