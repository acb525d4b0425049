"""What a d-pixel is: a pixel's dated observations by both sensors, and every check on what users send as one."""

from service.dpixels.arrays import ARRAYS, from_arrays
from service.dpixels.npz import UploadLimits, load_npz
from service.dpixels.series import PixelSeries, S1Series, S2Series, from_json
from service.dpixels.value import BANDS, MAX_FRAMES, DPixels, counts

__all__ = [
    "ARRAYS",
    "BANDS",
    "MAX_FRAMES",
    "DPixels",
    "PixelSeries",
    "S1Series",
    "S2Series",
    "UploadLimits",
    "counts",
    "from_arrays",
    "from_json",
    "load_npz",
]
