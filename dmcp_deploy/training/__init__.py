"""Data, training loop, checkpoints, batch-norm recalibration, distillation."""
