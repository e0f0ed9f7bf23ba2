"""Every implementation of attention by its name in `model.attention`; `backends` says what each can do."""

from lmjax.layers.attention import dense
from lmjax.layers.blocked import blocked
from lmjax.layers.chunked import chunked
from lmjax.layers.cudnn import cudnn
from lmjax.layers.splash import splash

ATTENTIONS = {"dense": dense, "blocked": blocked, "chunked": chunked, "splash": splash, "cudnn": cudnn}
