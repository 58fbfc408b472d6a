"""Training: one loop for denoisers and orders, recipes, checkpoints."""
