"""From a model with a cache to text: sampling, and generation by one compiled prefill and one compiled loop."""

from lmjax.decode.generate import Generator, Sample
from lmjax.decode.sampling import Options, choose, options

__all__ = ["Generator", "Options", "Sample", "choose", "options"]
