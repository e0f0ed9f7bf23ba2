"""Levanter's GPT-2 with Levanter's own loss, optimizer and Trainer; no logging, checkpoints or progress bar.

Its gradient checkpointing stays on, which is its default for GPT-2: less memory, more work.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import haliax as hax
import jax
import jax.numpy as jnp
import protocol
from levanter.layers.attention import AttentionMask
from levanter.models.gpt2 import Gpt2Config
from levanter.models.lm_model import LmExample
from levanter.optim import AdamConfig
from levanter.tracker import NoopConfig
from levanter.trainer import Trainer, TrainerConfig
from levanter.utils.jax_utils import parameter_count


def settings(job: dict, folder: Path) -> tuple[Gpt2Config, AdamConfig, TrainerConfig]:
    assert job["mlp"] % job["width"] == 0, "Levanter's GPT-2 takes the MLP's width as a multiple of the model's"
    model = Gpt2Config(
        max_seq_len=job["length"], hidden_dim=job["width"], num_layers=job["depth"], num_heads=job["heads"],
        mlp_scale=job["mlp"] // job["width"],
    )  # fmt: skip
    optimizer = AdamConfig(
        learning_rate=job["learning_rate"], weight_decay=job["weight_decay"], max_grad_norm=job["clip"],
        beta1=job["b1"], beta2=job["b2"], epsilon=job["eps"], lr_schedule="constant", warmup=0,
    )  # fmt: skip
    trainer = TrainerConfig(
        train_batch_size=job["batch"], seed=job["seed"], id="benchmark", tracker=NoopConfig(), log_dir=folder,
        log_jaxprs=False, log_xla_hlo=False, require_accelerator=False, load_checkpoint=False,
    )  # fmt: skip
    return model, optimizer, trainer


def main() -> None:
    job = protocol.job()
    model_config, optimizer_config, trainer_config = settings(job, Path(tempfile.mkdtemp()))
    trainer_config.initialize()
    optimizer = optimizer_config.build(trainer_config.num_train_steps)

    def loss_function(model, example, *, key=None):
        return model.compute_next_token_loss(example, key=key)

    with Trainer(trainer_config, optimizer, loss_function, add_default_hooks=False) as trainer:
        model_key, training_key = jax.random.split(jax.random.PRNGKey(job["seed"]))
        vocab = hax.Axis("vocab", job["vocab"])
        state = trainer.initial_state(training_key, model_init=lambda: model_config.build(vocab, key=model_key))
        axes = (trainer.TrainBatch, model_config.max_Pos)
        batches = itertools.cycle(protocol.train_batches(job))

        def work(steps: int) -> dict:
            nonlocal state
            losses = []
            for tokens_bt, _ in itertools.islice(batches, steps):  # the loss shifts the tokens by itself
                tokens = hax.named(jnp.asarray(tokens_bt), axes)
                example = LmExample(tokens, hax.ones(axes), AttentionMask.causal())
                step = trainer.train_step(state, example)
                state = step.state
                losses.append(step.loss)
            jax.block_until_ready(state.model)
            return {"loss": sum(losses) / len(losses)}

        packages = ["marin-levanter", "marin-haliax", "jax", "jaxlib"]
        protocol.serve(work, parameters=parameter_count(state.model), packages=packages)


if __name__ == "__main__":
    main()
