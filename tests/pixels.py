"""D-pixels for tests: random ones with given numbers of observations, and the ones that golden vectors are known of."""

from __future__ import annotations

import numpy as np

from service.dpixels import DPixels, from_arrays


def random_dpixels(n2, n1a, n1d, seed=0, t2=None, ta=None) -> DPixels:
    """Pixels with given numbers of valid observations, at random places of the sequence."""
    rng = np.random.default_rng(seed)
    n, t2, ta = len(n2), t2 or max(*n2, 1), ta or max(*n1a, *n1d, 1)

    def chosen(counts, t):
        return rng.random((n, t)).argsort(axis=1).argsort(axis=1) < np.asarray(counts)[:, None]

    radar = [np.where(chosen(c, ta)[..., None], rng.integers(2500, 7000, (n, ta, 2)), 0) for c in (n1a, n1d)]
    days = [np.sort(rng.integers(1, 367, (n, t)), axis=1) for t in (t2, ta, ta)]
    s2 = rng.integers(1, 9000, (n, t2, 10)).astype(np.uint16)
    return DPixels(s2, days[0], chosen(n2, t2), radar[0], days[1], radar[1], days[2], shape=(n,))


def golden_pixels() -> DPixels:
    """Three pixels: all observations, every second Sentinel-2 date and half an orbit, Sentinel-1 only."""
    t, p, c = np.ogrid[:11, :3, :10]
    bands = (1500 + 37 * t + 211 * c + 500 * p).astype(np.uint16)[:, None]
    masks = np.ones((11, 1, 3), np.uint8)
    masks[::2, 0, 1] = 0
    masks[:, 0, 2] = 0
    t, p, c = np.ogrid[:6, :3, :2]
    asc = (5200 + 50 * t - 2000 * c + 100 * p).astype(np.int16)[:, None]
    asc[:3, 0, 1] = 0
    t, p, c = np.ogrid[:4, :3, :2]
    desc = (5000 + 40 * t - 1900 * c + 90 * p).astype(np.int16)[:, None]
    return from_arrays(
        {
            "bands": bands,
            "masks": masks,
            "doys": 5 + 30 * np.arange(11),
            "sar_ascending": asc,
            "sar_ascending_doy": 12 + 20 * np.arange(6),
            "sar_descending": desc,
            "sar_descending_doy": 200 + 25 * np.arange(4),
        }
    )
