"""Generation speed on CPU: greedy, with a KV cache, from a prompt of 64 tokens to 128 new ones; train_cpu.py's model.

    python benchmarks/generate_cpu.py --python torch=PATH --python keras-hub=PATH

The rate counts new tokens only; the prompt's pass is in the time. benchmarks/README.md says the rest.
"""

from __future__ import annotations

import sys

from contest import MODEL, arguments, run_all


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], ["hugging-face", "keras-hub", "lmjax"], count=2)
    parser.add_argument("--vocab", type=int, default=50304)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="prompts at once, a contest each")
    options = parser.parse_args()
    job = MODEL | {"kind": "generate", "seed": 0, "vocab": options.vocab, "prompt": 64, "new": 128}
    return run_all(options, [(f"generate, batch {batch}", job | {"batch": batch}) for batch in options.batch])


if __name__ == "__main__":
    sys.exit(main())
