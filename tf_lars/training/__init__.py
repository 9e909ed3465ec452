"""Training with large batches: what stands around the optimizer."""
