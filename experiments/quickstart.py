"""The README's first command: `lmjax train quickstart`."""

from configs import lm
from lmjax.experiment import Experiment, register

register(
    Experiment(
        name="quickstart",
        question="Does a small Transformer on two CPU cores learn real text within three minutes?",
        base=lm.quickstart,
    )
)
