"""Beam search on CPU: four beams of a T5-small-like encoder-decoder, 64 new tokens from 64, beside transformers, eager.

    python benchmarks/beam_cpu.py --python torch=PATH

Random weights, float32, key/value caches, no length penalty, no end before the last token. The rate counts the tokens of
the best texts; the source's pass is in the time. `greedy` is the share of the best texts whose score is what one pass
without a cache says. benchmarks/README.md says how to make the environment and how to read the result.
"""

from __future__ import annotations

import sys

from contest import CONTENDERS, Contender, arguments, run_all

CONTENDERS |= {
    "hugging-face": Contender("torch", "hugging_face_beam_worker.py"),
    "lmjax": Contender("lmjax", "lmjax_beam_worker.py"),
}
MODEL = {"depth": 6, "width": 512, "heads": 8, "mlp": 2048, "vocab": 32_128}


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], ["hugging-face", "lmjax"], count=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="sources at once, a contest each")
    options = parser.parse_args()
    job = MODEL | {"kind": "beam", "seed": 0, "beams": 4, "prompt": 64, "new": 64}
    return run_all(options, [(f"beam search, batch {batch}", job | {"batch": batch}) for batch in options.batch])


if __name__ == "__main__":
    sys.exit(main())
