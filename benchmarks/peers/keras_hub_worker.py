"""keras-hub's GPT2CausalLM on the JAX backend, compiled by XLA, trained by fit() and sampled by generate()."""

from __future__ import annotations

import itertools
import os

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported

import keras
import keras_hub
import numpy as np
import protocol

PACKAGES = ["keras", "keras-hub", "jax", "jaxlib"]


def build(job: dict) -> keras_hub.models.GPT2CausalLM:
    keras.utils.set_random_seed(job["seed"])
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=job["vocab"], num_layers=job["depth"], num_heads=job["heads"], hidden_dim=job["width"],
        intermediate_dim=job["mlp"], dropout=0.0, max_sequence_length=job["length"], dtype="float32",
    )  # fmt: skip
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)


def serve_training(model: keras_hub.models.GPT2CausalLM, job: dict) -> None:
    optimizer = keras.optimizers.AdamW(
        job["learning_rate"], weight_decay=job["weight_decay"], beta_1=job["b1"], beta_2=job["b2"],
        epsilon=job["eps"], global_clipnorm=job["clip"],
    )  # fmt: skip
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, weighted_metrics=None, jit_compile=True)
    batches = itertools.cycle(protocol.train_batches(job))

    def work(steps: int) -> dict:
        tokens_bt, targets_bt = (np.concatenate(parts) for parts in zip(*itertools.islice(batches, steps), strict=True))
        inputs = {"token_ids": tokens_bt, "padding_mask": np.ones_like(tokens_bt)}
        history = model.fit(inputs, targets_bt, batch_size=job["batch"], shuffle=False, verbose=0)
        return {"loss": history.history["loss"][-1]}

    protocol.serve(work, parameters=model.count_params(), packages=PACKAGES)


def serve_generation(model: keras_hub.models.GPT2CausalLM, job: dict) -> None:
    model.compile(sampler="greedy")
    room = ((0, 0), (0, job["new"]))
    prompt_bt = protocol.prompts(job)
    inputs = {"token_ids": np.pad(prompt_bt, room), "padding_mask": np.pad(np.ones_like(prompt_bt), room)}
    latest = {}

    def work(calls: int) -> dict:
        for _ in range(calls):
            latest["tokens_bt"] = model.generate(inputs, stop_token_ids=None)["token_ids"]
        return {}

    def forward(tokens_bt):
        return model({"token_ids": tokens_bt, "padding_mask": np.ones_like(tokens_bt)})

    protocol.serve(
        work,
        parameters=model.count_params(),
        packages=PACKAGES,
        check=lambda: protocol.greedy_share(job, latest["tokens_bt"], forward),
    )


def main() -> None:
    job = protocol.job()
    {"train": serve_training, "generate": serve_generation}[job["kind"]](build(job), job)


if __name__ == "__main__":
    main()
