"""Topics of news by an encoder from scratch, or fine-tuned from what it has learned of the news without their topics.

    lmjax train masked_words --workdir=runs/news_words

makes what the variant "pretrained" begins from: its 400 steps hide words of the same texts, one run for all seeds.

Measured with one seed (results/news_topics): from scratch 0.870, pretrained 0.804. 400 steps are too few: hidden words
were still told no better (6.5 nats) than by how frequent they are, so that this says nothing of longer pretraining.
"""

from configs import encoders
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="news_topics",
        question="Is a topic told better after masked words were, and from the mean of all tokens through a pooler or directly?",
        base=encoders.news_topics,
        variants={
            "pretrained": {
                "start.run": "runs/news_words",
                "start.missing": "init",
                "start.drop": ("transform.*", "head.*"),
            },
            "plain": {"model.pooler": False},
        },
        seeds=(0, 1, 2),
        metrics=("eval/accuracy",),
    )
)
