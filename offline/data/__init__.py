"""Packed episodes on disk, the choice among them, and the batches that agents learn from."""
