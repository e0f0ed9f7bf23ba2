"""Hugging Face transformers' BertForMaskedLM and T5ForConditionalGeneration, with their own losses."""

from __future__ import annotations

import itertools

import protocol
import torch
from encdec_batches import batches
from torch import nn
from torch_worker import adamw
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration


def build(job: dict) -> nn.Module:
    torch.manual_seed(job["seed"])
    if job["model"] == "t5":
        return T5ForConditionalGeneration(T5Config(
            vocab_size=job["vocab"], d_model=job["width"], d_kv=job["width"] // job["heads"], d_ff=job["mlp"],
            num_layers=job["depth"], num_heads=job["heads"], dropout_rate=0.0,
        ))  # fmt: skip
    return BertForMaskedLM(BertConfig(
        vocab_size=job["vocab"], hidden_size=job["width"], num_hidden_layers=job["depth"],
        num_attention_heads=job["heads"], intermediate_size=job["mlp"], max_position_embeddings=job["length"],
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ))  # fmt: skip


def inputs(job: dict, batch: dict) -> dict[str, torch.Tensor]:
    """A batch in the words of transformers; -100 is what weighs nothing."""
    found = {name: torch.from_numpy(array).long() for name, array in batch.items()}
    if job["model"] == "t5":
        return {"input_ids": found["source"], "attention_mask": torch.ones_like(found["source"]),
                "decoder_input_ids": found["tokens"], "labels": found["targets"]}  # fmt: skip
    labels = torch.where(found["chosen"] > 0, found["originals"], -100)
    return {"input_ids": found["tokens"], "attention_mask": torch.ones_like(labels), "labels": labels}


def main() -> None:
    job = protocol.job()
    model = build(job).train()
    optimizer, given = adamw(model, job), itertools.cycle([inputs(job, batch) for batch in batches(job)])

    def work(steps: int) -> dict:
        losses = []
        for batch in itertools.islice(given, steps):
            loss = model(**batch, **({"use_cache": False} if job["model"] == "t5" else {})).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), job["clip"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return {"loss": torch.stack(losses).mean().item()}

    unique = {id(p): p for p in model.parameters()}.values()
    protocol.serve(work, parameters=sum(p.numel() for p in unique), packages=["torch", "transformers"])


if __name__ == "__main__":
    main()
