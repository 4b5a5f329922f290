"""The training loop, checkpoints, batch-norm recalibration, distillation."""
