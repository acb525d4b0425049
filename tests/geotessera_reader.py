"""Run by a Python that has geotessera, not by ours: read a store as its users do and save what came back.

usage: geotessera_reader.py STORE QUESTIONS.npz ANSWERS.npz
"""

import sys

import numpy as np
from geotessera.store import GeoTesseraZarr

location, questions, answers = sys.argv[1:]
ask = np.load(questions)
store = GeoTesseraZarr(location)
year, points, box = int(ask["year"]), ask["points"], ask["box"]
probes = [store.probe(lon, lat, year, search_px=0) for lon, lat in points]
mosaic, transform, crs = store.read_region(tuple(box), year)
coordinates = [tuple(p) for p in points]
prefix = {}
if 16 in store.depths:
    prefix["prefix"] = store.sample_points(coordinates, year, search_px=0, depth=16)
np.savez(
    answers,
    zones=np.array(sorted(store._icechunk.zones() if store._icechunk else [])),
    years=np.array(store.years),
    bands=np.array(store.n_bands),
    samples=store.sample_points(coordinates, year, search_px=0),
    probed=np.array([np.full(store.n_bands, np.nan, np.float32) if v is None else v for v, _ in probes]),
    statuses=np.array([s for _, s in probes]),
    mosaic=mosaic,
    transform=np.array(transform[:6]),
    crs=np.array(crs),
    **prefix,
)
