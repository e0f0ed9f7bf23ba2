"""Evaluators: exact sums over a fixed set, independent of the batch size."""
