"""Layers: attention, masks, positions, MLPs, norms, and the stack of blocks."""
