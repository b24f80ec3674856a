"""Training: steps and loop in torch alone, the launchers around them, checkpoints and bundles."""
