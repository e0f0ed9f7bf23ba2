"""BERT's two tasks at once: how their losses are weighed against each other, and whether their gradients agree."""

from configs import multi_task
from lmjax.config import update
from lmjax.experiment import Experiment, register


def sentences():
    """Uncertainties, with the cosine of the tasks' gradients logged."""
    return update(multi_task.sentences(), {"objective.conflict": True})


register(
    Experiment(
        name="two_tasks",
        question="Does it help masked words and the order of sentences when the weights of their losses are learned?",
        base=sentences,
        variants={"fixed": {"objective.weighting": "fixed"}, "gradnorm": {"objective.weighting": "gradnorm"}},
        seeds=(0, 1, 2),
    )
)
