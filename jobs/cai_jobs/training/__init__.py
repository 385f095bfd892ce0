"""What the training programs share: flags, ranks, models, checkpoints, metrics."""
