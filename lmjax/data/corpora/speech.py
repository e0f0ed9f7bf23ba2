"""Reader of the packaged speech: telephone prompts and what they say."""

from __future__ import annotations

import gzip
import re
import wave
from collections.abc import Iterator
from pathlib import Path

REMARK = re.compile(r"\s*\[[^\]]*\]")


def prompts(files: list[Path]) -> Iterator[dict]:
    """The prompts of the Asterisk telephone exchange by one speaker, 8 kHz; tones, which say nothing, are left out."""
    import numpy as np

    *sounds, transcripts = files
    texts = {}
    for line in gzip.decompress(transcripts.read_bytes()).decode().splitlines():
        name, colon, text = line.partition(": ")
        if colon and not line.startswith(";"):
            texts[name] = REMARK.sub("", text).strip()
    folder = next(parent for parent in sounds[0].parents if parent.name == "en_US_f_Allison")
    for file in sounds:
        if text := texts.get(file.relative_to(folder).with_suffix("").as_posix()):
            with wave.open(str(file)) as sound:
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
                yield {"audio": samples.astype(np.float32) / 32768, "rate": sound.getframerate(), "text": text}
