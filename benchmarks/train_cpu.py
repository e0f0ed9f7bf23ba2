"""Training speed on CPU: a 6-layer GPT-2 in float32, lmjax's own train path beside its peers, in one run.

    python benchmarks/train_cpu.py --python torch=PATH --python keras-hub=PATH --python levanter=PATH

benchmarks/README.md says how to make the environments and how to read the result.
"""

from __future__ import annotations

import sys

from contest import ADAMW, CONTENDERS, MODEL, arguments, run_all


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], list(CONTENDERS), count=3)
    parser.add_argument("--vocab", type=int, nargs="+", default=[256, 50304], help="vocabulary sizes, a contest each")
    parser.add_argument("--batch", type=int, default=8, help="rows of 256 tokens in a step")
    options = parser.parse_args()
    job = MODEL | ADAMW | {"kind": "train", "seed": 0, "batch": options.batch, "batches": 4}
    contests = [(f"train, vocabulary {vocab:,}, batch {options.batch} x 256", job | {"vocab": vocab})
                for vocab in options.vocab]  # fmt: skip
    return run_all(options, contests)


if __name__ == "__main__":
    sys.exit(main())
