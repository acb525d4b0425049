"""How n observations become the sequence that an encoder sees: every published rule, and its exact short form.

The v2 and v1.1 rules repeat or drop observations until their number is a multiple of 8; v1.0 draws 40 at random. We
keep each observation once, with the logarithm of its multiplicity, and pad to one of a few lengths with observations
of multiplicity zero.
"""

from service.sampling.draws import DRAWS, drawn, seeds
from service.sampling.packing import Sequences, packed, sequences
from service.sampling.prepare import Prepared, prepare, standardise
from service.sampling.rules import (
    LENGTHS,
    LONGEST,
    PADDING,
    STEP,
    bin_of,
    multiplicities,
    orders,
    pattern,
    resample,
)

__all__ = [
    "DRAWS",
    "LENGTHS",
    "LONGEST",
    "PADDING",
    "STEP",
    "Prepared",
    "Sequences",
    "bin_of",
    "drawn",
    "multiplicities",
    "orders",
    "packed",
    "pattern",
    "prepare",
    "resample",
    "seeds",
    "sequences",
    "standardise",
]
