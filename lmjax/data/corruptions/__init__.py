"""What is hidden of a text or moved in it so that a model can restore it: pure functions of the text and of chance.

Each file here holds one corruption of a row's ids; `settings` reads config.data.corruption and lmjax/data/corrupted.py
applies it to the rows of a split.
"""

from lmjax.data.corruptions.settings import KINDS, Settings, section, special, text_length

__all__ = ["KINDS", "Settings", "section", "special", "text_length"]
