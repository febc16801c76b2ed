"""Preparation of weights: cut checkpoints into slabs, check them, look at them, make random ones."""
