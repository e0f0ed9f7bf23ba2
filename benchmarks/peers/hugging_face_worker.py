"""Hugging Face transformers' GPT2LMHeadModel, with its own loss, its default attention and its own generate()."""

from __future__ import annotations

import protocol
import torch
from torch_worker import train
from transformers import GPT2Config, GPT2LMHeadModel

PACKAGES = ["torch", "transformers"]


def build(job: dict) -> GPT2LMHeadModel:
    torch.manual_seed(job["seed"])
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=job["vocab"], n_positions=job["length"], n_embd=job["width"], n_layer=job["depth"],
        n_head=job["heads"], n_inner=job["mlp"], activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    ))  # fmt: skip


def serve_generation(model: GPT2LMHeadModel, job: dict) -> None:
    model.eval()
    prompt_bt = torch.from_numpy(protocol.prompts(job)).long()
    options = {"max_new_tokens": job["new"], "do_sample": False, "use_cache": True, "pad_token_id": 0}
    latest = {}

    def work(calls: int) -> dict:
        for _ in range(calls):
            latest["tokens_bt"] = model.generate(prompt_bt, attention_mask=torch.ones_like(prompt_bt), **options)
        return {}

    @torch.no_grad()
    def forward(tokens_bt):
        return model(input_ids=torch.from_numpy(tokens_bt)).logits

    protocol.serve(
        work,
        parameters=sum(p.numel() for p in model.parameters()),
        packages=PACKAGES,
        check=lambda: protocol.greedy_share(job, latest["tokens_bt"].numpy(), forward),
    )


def main() -> None:
    job = protocol.job()
    model = build(job)
    if job["kind"] == "generate":
        return serve_generation(model, job)

    def loss_of(tokens_bt, targets_bt):
        # shift_labels: targets that are already shifted; the last position of a row then counts as in the others.
        return model(input_ids=tokens_bt, labels=targets_bt, shift_labels=targets_bt, use_cache=False).loss

    model.train()
    train(model, loss_of, job, PACKAGES)


if __name__ == "__main__":
    main()
