"""From the index to batches: order, reading, decoding, transforms. Contract: batch t is a pure function of (seed, t)."""
