"""A landscape of known truth: as d-pixels (`landscape`), and as scenes of a catalogue (`scenes`, `stac`)."""

from service.simulate.landscape import CHANGED, CLASSES, CROPS, FIELD, Landscape, s1_days, s2_days

__all__ = ["CHANGED", "CLASSES", "CROPS", "FIELD", "Landscape", "s1_days", "s2_days"]
