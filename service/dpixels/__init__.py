"""What a d-pixel is: a pixel's dated observations by both sensors, and every check on what users send as one."""

from service.dpixels.arrays import ARRAYS, from_arrays
from service.dpixels.npz import load_npz, read_npz
from service.dpixels.pixels import PIXEL_ARRAYS, from_pixels
from service.dpixels.series import PixelSeries, S1Series, S2Series, from_json
from service.dpixels.upload import Declared, Upload, UploadLimits
from service.dpixels.value import BANDS, MAX_FRAMES, DPixels, counts

__all__ = [
    "ARRAYS",
    "BANDS",
    "MAX_FRAMES",
    "PIXEL_ARRAYS",
    "DPixels",
    "Declared",
    "PixelSeries",
    "S1Series",
    "S2Series",
    "Upload",
    "UploadLimits",
    "counts",
    "from_arrays",
    "from_json",
    "from_pixels",
    "load_npz",
    "read_npz",
]
