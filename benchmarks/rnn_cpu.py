"""Training speed on CPU of an LSTM language model in float32: lmjax's own train path beside torch.nn.LSTM, in one run.

    python benchmarks/rnn_cpu.py --python torch=PATH

Embeddings, tied to the readout, and LSTM layers; the loss, AdamW and clipping of train_cpu.py. PyTorch runs eager, which
on a CPU is oneDNN's own LSTM. benchmarks/README.md says how to make the environment and how to read the result.
"""

from __future__ import annotations

import sys

from contest import ADAMW, arguments, run_all


def main() -> int:
    parser = arguments(__doc__.splitlines()[0], ["torch-eager", "lmjax"], count=3)
    parser.add_argument("--vocab", type=int, nargs="+", default=[256, 8192], help="vocabulary sizes, a contest each")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--width", type=int, default=512, help="units of a layer, and of the embeddings")
    parser.add_argument("--depth", type=int, default=2, help="layers")
    options = parser.parse_args()
    sizes = {"batch": options.batch, "length": options.length, "width": options.width, "depth": options.depth}
    job = ADAMW | sizes | {"kind": "train", "model": "lstm", "seed": 0, "batches": 4}
    shape = f"{options.depth} x {options.width}, batch {options.batch} x {options.length}"
    contests = [(f"LSTM {shape}, vocabulary {vocab:,}", job | {"vocab": vocab}) for vocab in options.vocab]
    return run_all(options, contests)


if __name__ == "__main__":
    sys.exit(main())
