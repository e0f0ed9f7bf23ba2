"""Cleaning of records before they are split: RULES in their order, each off by default and each counting what it does.

`clean(read, settings, report)` for one stream; for pieces in parallel `scan` each, `decide` once, `apply` each: the
same records, and reports whose sum is the same.
"""

from lmjax.data.cleaning.contamination import Contamination, Probe, check
from lmjax.data.cleaning.local import LOCAL, Cleaned, clean_record
from lmjax.data.cleaning.passes import apply, clean, scan
from lmjax.data.cleaning.report import Report, merged
from lmjax.data.cleaning.settings import Settings, defaults, key, settings
from lmjax.data.cleaning.together import TOGETHER, decide, dtype

RULES = LOCAL + TOGETHER  # what changes or removes records, in the order in which it is done

__all__ = [
    "LOCAL",
    "RULES",
    "TOGETHER",
    "Cleaned",
    "Contamination",
    "Probe",
    "Report",
    "Settings",
    "apply",
    "check",
    "clean",
    "clean_record",
    "decide",
    "defaults",
    "dtype",
    "key",
    "merged",
    "scan",
    "settings",
]
