"""Run by a Python that has geotessera, not by ours: read GeoTIFFs as its users do, merge them, save what came back.

usage: geotessera_tiffs.py ONE.tif TWO.tif OTHER_MODEL.tif ANSWERS.npz
"""

import sys
from pathlib import Path

import numpy as np
import rasterio
from geotessera.raster import merge_geotiffs
from geotessera.registry import dataset_from_tags
from geotessera.tiles import Tile

one, two, other, answers = map(Path, sys.argv[1:])
tile = Tile.from_geotiff(one)
merged = answers.with_suffix(".tif")
merge_geotiffs([one, two], merged, target_crs=str(tile.crs))
try:
    merge_geotiffs([one, other], answers.with_suffix(".bad.tif"), target_crs=str(tile.crs))
    refused = ""
except ValueError as error:
    refused = str(error)
with rasterio.open(merged) as src, rasterio.open(one) as first:
    np.savez(
        answers,
        embedding=tile.load_embedding(),
        year=np.array(tile.year),
        dataset=np.array(dataset_from_tags(first.tags())),
        merged=np.moveaxis(src.read(), 0, -1),
        transform=np.array(src.transform[:6]),
        refused=np.array(refused),
    )
