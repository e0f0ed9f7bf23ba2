"""From a model with a cache to text: sampling, beam search, and generation by one compiled prefill and one loop."""

from lmjax.decode.beam import BeamSearch, Hypothesis
from lmjax.decode.generate import Generator, Sample
from lmjax.decode.sampling import GREEDY, Options, choose, options

__all__ = ["GREEDY", "BeamSearch", "Generator", "Hypothesis", "Options", "Sample", "choose", "options"]
