"""From a config's `model.moe`, where there is one, to a `Routing`."""

from __future__ import annotations

from ml_collections import ConfigDict

from lmjax.errors import UserError, unknown
from lmjax.layers.grouped import GROUPED
from lmjax.layers.moe import Routing

DISPATCHES = ("dropless", "capacity")


def routing(section: ConfigDict, platform: str) -> Routing | None:
    """The `moe` of a model's section, checked; None where it has none. grouped=auto goes by platform."""
    if "moe" not in section:
        return None
    moe = section.moe
    if moe.dispatch not in DISPATCHES:
        raise unknown("value of model.moe.dispatch", moe.dispatch, DISPATCHES)
    if moe.grouped not in ("auto", *GROUPED):
        raise unknown("value of model.moe.grouped", moe.grouped, ("auto", *GROUPED))
    if moe.experts < 1 or not 1 <= moe.top <= moe.experts:
        raise UserError(
            f"model.moe.top={moe.top} of model.moe.experts={moe.experts}: at least 1, and no more than there are"
        )
    if not moe.capacity > 0:
        raise UserError(f"model.moe.capacity={moe.capacity}: it must be positive; 1.25 is usual")
    for name in ("balance", "importance", "z"):
        if moe[name] < 0:
            raise UserError(f"model.moe.{name}={moe[name]}: 0 or more, the weight of a loss")
    grouped = moe.grouped
    if grouped == "auto":
        grouped = "blocks" if platform == "cpu" else "ragged"
    return Routing(**{name: moe[name] for name in Routing._fields if name != "grouped"}, grouped=grouped)
