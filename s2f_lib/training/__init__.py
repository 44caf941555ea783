"""Losses, data, the training loops and checkpoints."""
