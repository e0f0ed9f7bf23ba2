"""A plain PyTorch GPT-2 in the manner of nanoGPT, eager or under torch.compile, and a plain language model on nn.LSTM:
the yardsticks of train_cpu.py and rnn_cpu.py.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; pre-norm blocks, tied embeddings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import protocol
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x_btd: torch.Tensor) -> torch.Tensor:
        b, t, d = x_btd.shape
        qkv = self.qkv(self.attention_norm(x_btd)).split(d, dim=2)
        q_bhtk, k_bhsk, v_bhsk = (part.view(b, t, self.heads, d // self.heads).transpose(1, 2) for part in qkv)
        mixed_bhtk = F.scaled_dot_product_attention(q_bhtk, k_bhsk, v_bhsk, is_causal=True)
        x_btd = x_btd + self.attention_out(mixed_bhtk.transpose(1, 2).reshape(b, t, d))
        return x_btd + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_btd)), approximate="tanh"))


class Gpt2(nn.Module):
    """tokens_bt, targets_bt -> the mean next-token cross-entropy in nats."""

    def __init__(self, vocab: int, length: int, depth: int, width: int, heads: int, mlp: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.ndim == 2:
                shrink = math.sqrt(2 * depth) if "_out." in name else 1.0
                nn.init.normal_(weight, std=0.02 / shrink)

    def forward(self, tokens_bt: torch.Tensor, targets_bt: torch.Tensor) -> torch.Tensor:
        x_btd = self.tokens(tokens_bt) + self.positions(torch.arange(tokens_bt.shape[1]))
        for block in self.blocks:
            x_btd = block(x_btd)
        logits_btv = F.linear(self.norm(x_btd), self.tokens.weight)
        return F.cross_entropy(logits_btv.flatten(0, 1), targets_bt.flatten())


class Lstm(nn.Module):
    """tokens_bt, targets_bt -> the mean next-token cross-entropy in nats, by torch.nn.LSTM and tied embeddings.

    PyTorch has two biases of every gate, which act as their sum: one of them stays at 0, as there is one elsewhere.
    """

    def __init__(self, vocab: int, depth: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True)
        nn.init.normal_(self.tokens.weight, std=0.05)
        for name, bias in self.lstm.named_parameters():
            if "bias" in name:
                nn.init.zeros_(bias).requires_grad_("bias_ih" in name)

    def forward(self, tokens_bt: torch.Tensor, targets_bt: torch.Tensor) -> torch.Tensor:
        x_btd, _ = self.lstm(self.tokens(tokens_bt))
        logits_btv = F.linear(x_btd, self.tokens.weight)
        return F.cross_entropy(logits_btv.flatten(0, 1), targets_bt.flatten())


def adamw(model: nn.Module, job: dict) -> torch.optim.AdamW:
    """AdamW that decays matrices and spares biases and norms; PyTorch chooses its implementation."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": job["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=job["learning_rate"], betas=(job["b1"], job["b2"]), eps=job["eps"])


def train(model: nn.Module, loss_of: Callable, job: dict, packages: list[str]) -> None:
    """Serves train steps of loss_of(tokens_bt, targets_bt) with AdamW and the gradient's global norm clipped."""
    optimizer = adamw(model, job)
    tensors = [tuple(torch.from_numpy(part).long() for part in batch) for batch in protocol.train_batches(job)]
    batches = itertools.cycle(tensors)

    def work(steps: int) -> dict:
        losses = []
        for tokens_bt, targets_bt in itertools.islice(batches, steps):
            loss = loss_of(tokens_bt, targets_bt)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), job["clip"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return {"loss": torch.stack(losses).mean().item()}

    protocol.serve(work, parameters=sum(p.numel() for p in model.parameters() if p.requires_grad), packages=packages)


def main() -> None:
    job = protocol.job()
    torch.manual_seed(job["seed"])
    if job.get("model") == "lstm":
        model = Lstm(job["vocab"], job["depth"], job["width"])
    else:
        model = Gpt2(job["vocab"], job["length"], job["depth"], job["width"], job["heads"], job["mlp"])
    train(model, torch.compile(model) if job.get("compile") else model, job, ["torch"])


if __name__ == "__main__":
    main()
