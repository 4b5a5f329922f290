"""Pictures: sources, data sets, shards, augmentation, reproducible batches."""
