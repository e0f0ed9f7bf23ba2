"""Images and sounds as they lie in files: decoded once here, so that what is broken or cut short is known by name."""

from __future__ import annotations

import io
import struct

import numpy as np

from lmjax.data.records import BadRecord
from lmjax.errors import UserError

NOT_KNOWN = (0, 0xFFFFFFFF)  # sizes that a WAV written to a pipe has


def image(raw: bytes, where: str) -> bytes | BadRecord:
    """The bytes of a PNG or JPEG file, when every check sum is right and every pixel can be decoded."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise UserError(f"{where}: reading images needs Pillow: pip install 'lmjax[images]'") from None
    try:
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as opened:
            opened.verify()  # the check sums of a PNG; after it the image must be opened anew
        with Image.open(io.BytesIO(raw), formats=("PNG", "JPEG")) as opened:
            opened.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        return BadRecord(where, "broken image", f"this is no whole PNG or JPEG image: {error}")
    return raw


def sound(raw: bytes, where: str) -> tuple[np.ndarray, int] | BadRecord:
    """(samples as float32, mixed to one channel; rate in Hz) of a WAV, FLAC or OGG file that is whole."""
    try:
        import soundfile
    except (ModuleNotFoundError, OSError):  # OSError: it is there, and libsndfile is not
        raise UserError(f"{where}: reading sound needs soundfile: pip install 'lmjax[speech]'") from None
    if short := _cut_short(raw):
        return BadRecord(where, "truncated audio", short)
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            said, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        return BadRecord(where, "broken audio", f"this is no WAV, FLAC or OGG file that can be read: {error}")
    if len(samples) < said:
        return BadRecord(where, "truncated audio", f"the file says {said} samples and holds {len(samples)}")
    if not len(samples):
        return BadRecord(where, "empty audio", "there is no sample in this file")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        return BadRecord(where, "broken audio", "some samples are no finite numbers")
    return np.ascontiguousarray(mono), int(rate)


def _cut_short(raw: bytes) -> str | None:
    """What libsndfile reads without a word: a WAV whose data end before their size, an OGG without its last page."""
    if raw[:4] == b"RIFF" and raw[8:12] == b"WAVE":
        at = 12
        while at + 8 <= len(raw):
            name, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
            if name == b"data":
                left = len(raw) - at - 8
                short = size not in NOT_KNOWN and size > left
                return f"the header says {size} bytes of samples, {left} are there" if short else None
            at += 8 + size + size % 2
        return "it ends before its samples"
    if raw[:4] == b"OggS":
        last = raw.rfind(b"OggS")
        head = raw[last : last + 27]
        if len(head) < 27 or len(raw) < last + 27 + head[26] + sum(raw[last + 27 : last + 27 + head[26]]):
            return "it ends inside a page"
        if not head[5] & 4:
            return "its last page is not there"
    return None
