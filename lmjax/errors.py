"""The one exception for what a user can get wrong, and the message for an unknown name."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The user's mistake: the command line prints its message without a traceback and exits 2."""


class Unmeasured(UserError):
    """A metric that a study wants and that none of its runs will measure."""


def nearest(value: object, legal: Iterable[object]) -> str | None:
    """The legal name closest to value, or None when nothing is close."""
    names = {str(name).lower(): str(name) for name in legal}
    found = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.6)
    return names[found[0]] if found else None


def unknown(what: str, value: object, legal: Iterable[object], hint: str = "") -> UserError:
    """An error to raise: "unknown optimizer 'adamm'; did you mean 'adamw'? Legal: adam, adamw." """
    names = [str(name) for name in legal]
    close = nearest(value, names)
    guess = f"did you mean {close!r}? " if close else ""
    listed = f"Legal: {', '.join(names)}." if names else "There are none."
    return UserError(f"unknown {what} {value!r}; {guess}{listed}{' ' + hint if hint else ''}")


def check_wanted(wanted: Iterable[str], measured: Iterable[str]) -> None:
    """Unmeasured for the first of `wanted` that a run does not measure; those of the clock and of `lmjax eval` pass."""
    measured = list(measured)
    for name in wanted:
        if name not in measured and not name.startswith(("perf/", "eval/")):
            raise Unmeasured(str(unknown("metric of the study", name, measured)))
