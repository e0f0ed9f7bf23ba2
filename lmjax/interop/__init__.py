"""Hugging Face in and out: checkpoints of other libraries become run directories, and runs become checkpoints."""
