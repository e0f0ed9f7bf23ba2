"""Ahead-of-time plans: does it fit, what does it send, how fast can it be; by the compiler of chips that are not here."""
