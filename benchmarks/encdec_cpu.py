"""Training speed on CPU of an encoder and an encoder-decoder: BERT-base- and T5-small-like, beside transformers.

    python benchmarks/encdec_cpu.py --python torch=PATH --contests t5 bert

Float32, no dropout, AdamW; transformers runs eager with its own default attention. All places go through the vocabulary
in both. benchmarks/README.md says how to make the environment and how to read the result.
"""

from __future__ import annotations

import sys

from contest import ADAMW, CONTENDERS, Contender, arguments, run_all

CONTENDERS |= {
    "hugging-face": Contender("torch", "hugging_face_encdec_worker.py"),
    "lmjax": Contender("lmjax", "lmjax_encdec_worker.py"),
}
JOBS = {
    "t5": {"depth": 6, "width": 512, "heads": 8, "mlp": 2048, "vocab": 32_128, "source": 128, "length": 32, "batch": 8},
    "bert": {"depth": 12, "width": 768, "heads": 12, "mlp": 3072, "vocab": 30_522, "length": 128, "batch": 4},
}


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], ["hugging-face", "lmjax"], count=1)
    parser.add_argument("--contests", nargs="+", choices=JOBS, default=list(JOBS))
    options = parser.parse_args()
    job = ADAMW | {"kind": "train", "seed": 0, "batches": 2, "learning_rate": 1e-4}
    return run_all(options, [(name, job | JOBS[name] | {"model": name}) for name in options.contests])


if __name__ == "__main__":
    sys.exit(main())
