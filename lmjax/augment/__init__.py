"""Augmentation as pure functions: of texts in NumPy (text.TEXT, no JAX), of images in JAX (images.IMAGE, mixing.MIX)."""
