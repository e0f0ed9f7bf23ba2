"""Several tasks at once on one encoder."""

from configs import encoders
from configs.base import rule
from lmjax.config import extend, optional, update


def sentences():
    """BERT's two tasks on the Bible, their losses weighed by learned uncertainties."""
    base = extend(
        encoders.sentences(),
        {
            "objective.weighting": "uncertainty",  # fixed uncertainty gradnorm
            "objective.task_weights": optional(tuple),  # a factor for each task; none: 1
            "objective.conflict": False,  # log the cosine of the tasks' gradients, for a backward pass more each
            "objective.alpha": 1.5,  # gradnorm: how much the slower task is helped
            "objective.shared": "blocks/.*",  # paths of the parameters whose gradients are compared
            "objective.initial": optional(tuple),  # gradnorm: losses at the start; none: those of guessing
        },
    )
    return update(
        base,
        {
            "model.kind": "multi_task_sentences",
            "objective.kind": "multi_task",
            "eval.metric": "valid/loss",
            "optim.rules.tasks": rule("task_weights", decay=0.0),
        },
    )
