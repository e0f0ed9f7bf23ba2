"""Hugging Face transformers' beam search of T5ForConditionalGeneration, eager."""

from __future__ import annotations

import protocol
import torch
from transformers import T5Config, T5ForConditionalGeneration


def main() -> None:
    job = protocol.job()
    torch.manual_seed(job["seed"])
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=job["vocab"], d_model=job["width"], d_kv=job["width"] // job["heads"], d_ff=job["mlp"],
        num_layers=job["depth"], num_heads=job["heads"], dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=1,
    )).eval()  # fmt: skip
    source = torch.from_numpy(protocol.prompts(job)).long().clamp(min=2)
    asked = {"input_ids": source, "attention_mask": torch.ones_like(source)}
    options = {"num_beams": job["beams"], "do_sample": False, "max_new_tokens": job["new"], "min_new_tokens": job["new"],
               "length_penalty": 0.0, "early_stopping": True, "output_scores": True,
               "return_dict_in_generate": True}  # fmt: skip
    latest = {}

    def work(calls: int) -> dict:
        for _ in range(calls):
            with torch.inference_mode():
                latest["best"] = model.generate(**asked, **options)
        return {}

    @torch.inference_mode()
    def check() -> dict:
        tokens, told = latest["best"].sequences, latest["best"].sequences_scores
        assert tokens.shape == (job["batch"], 1 + job["new"]), f"{tuple(tokens.shape)} tokens"
        logits = model(**asked, decoder_input_ids=tokens[:, :-1]).logits
        total = logits.log_softmax(-1).gather(2, tokens[:, 1:, None]).sum((1, 2))
        return {"greedy": float(((total - told).abs() < 1e-2).float().mean())}

    protocol.serve(work, parameters=sum(p.numel() for p in {id(p): p for p in model.parameters()}.values()),
                   packages=["torch", "transformers"], check=check)  # fmt: skip


if __name__ == "__main__":
    main()
