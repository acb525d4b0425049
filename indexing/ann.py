"""The only door to FAISS: an inverted file of 1- or 2-bit RaBitQ codes (Gao & Long 2024, arXiv 2405.12497).

FAISS proposes candidates; its distances are estimates and never leave this package as scores. Two types keep apart
what FAISS does not: an index being built can only be added to, an opened one only be searched. Adding to an index
that is mapped from disk ends the process inside FAISS, where nothing can catch it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import faiss as _faiss
import numpy as np

from service.errors import Corrupt, InvalidInput
from service.values import Float32Array, Int64Array, UInt8Array

faiss: Any = _faiss  # its type hints miss much of what its wrapper adds at run time

KIND: Final = "ivf-rabitq"
VERSION: Final = str(faiss.__version__)
MIN_LISTS: Final = 16
MAX_LISTS: Final = 65_536
_PIXELS_A_LIST: Final = 1000
_HNSW_FROM: Final = 4096
"""From this many lists on, finding the nearest ones through a graph is faster than trying them all."""
_NARROW: Final = 64
"""Up to this many dimensions one bit each is too coarse (16 dimensions: recall .79, with two bits .99)."""
_SEGMENT: Final = 8_000_000
"""Pixels held in memory while building; an index of more has several files."""


@dataclass(frozen=True)
class Parameters:
    """How an index is laid out; follows from the number of pixels and dimensions."""

    dims: int
    """Embedding dimensions."""
    lists: int
    """Inverted lists, about 1000 pixels each."""
    bits: int
    """Bits kept for each dimension."""
    seed: int
    """What the clustering starts from."""

    @classmethod
    def of(cls, pixels: int, dims: int, seed: int) -> Parameters:
        """The layout for so many pixels: lists are a power of two."""
        lists = 2 ** round(float(np.log2(max(pixels / _PIXELS_A_LIST, 1))))
        return cls(dims, int(np.clip(lists, MIN_LISTS, MAX_LISTS)), 2 if dims <= _NARROW else 1, seed)

    @property
    def sample(self) -> int:
        """How many pixels to learn the lists from."""
        return max(min(64 * self.lists, 2**18), 16 * self.lists)


class Builder:
    """An index that is being built, from vectors of length 1.

    Args:
        parameters: The layout; fewer lists are made where the sample is smaller.
        sample: (n, d) float32 vectors to learn the lists from. Their order and the seed decide the outcome.
        folder: An existing folder for the files.

    Raises:
        InvalidInput: The sample is empty.
    """

    def __init__(self, parameters: Parameters, sample: Float32Array, folder: Path) -> None:
        if not len(sample):
            raise InvalidInput("there is no pixel to index.", field="sample")
        self.parameters = replace(parameters, lists=min(parameters.lists, len(sample)))
        self.count = 0
        self.files: list[Path] = []
        self._folder = folder
        self._empty = _trained(self.parameters, np.ascontiguousarray(sample))
        self._index = faiss.clone_index(self._empty)

    def add(self, positions: Int64Array, vectors: Float32Array) -> None:
        """Add (n,) int64 positions, each new, with their (n, d) float32 vectors."""
        if self._index.ntotal >= _SEGMENT:
            self._write()
        self._index.add_with_ids(np.ascontiguousarray(vectors), np.ascontiguousarray(positions))
        self.count += len(positions)

    def finish(self) -> tuple[Path, ...]:
        """Write what is left and return the files in order. The builder is spent."""
        self._write()
        return tuple(self.files)

    def _write(self) -> None:
        self.files.append(self._folder / f"pixels-{len(self.files)}.faiss")
        faiss.write_index(self._index, str(self.files[-1]))
        self._index = faiss.clone_index(self._empty)


class AnnIndex:
    """An index opened for searching only, mapped from disk. Safe to search from many threads.

    Args:
        files: As `Builder.finish` returned them.
        dims: Embedding dimensions it must have.

    Raises:
        Corrupt: A file cannot be read, or holds another kind of index. Names the file.
    """

    def __init__(self, files: Sequence[Path], dims: int) -> None:
        self._parts = [_open(path, dims) for path in files]
        self.lists = int(self._parts[0].nlist)
        self.count = sum(int(part.ntotal) for part in self._parts)

    def candidates(
        self, direction: Float32Array, count: int, probes: int, allowed: UInt8Array | None = None
    ) -> Int64Array:
        """Positions of the `count` pixels estimated nearest to a direction, nearest first; equal estimates in order.

        Args:
            direction: (d,) float32 of length 1.
            count: How many, 1 or more; fewer come back where the lists looked into hold fewer.
            probes: How many of the lists to look into.
            allowed: A bit for each position, lowest bit first: only these can be found; all where absent.
        """
        faiss.omp_set_num_threads(1)  # holds for this thread only; two threads a query triple its time under load
        query = np.ascontiguousarray(direction[None], np.float32)
        found = [part.search(query, count, params=_lookup(part, probes, allowed)) for part in self._parts]
        distances = np.concatenate([d[0] for d, _ in found])
        positions = np.concatenate([i[0] for _, i in found]).astype(np.int64)
        order = np.lexsort((positions, distances))
        order = order[positions[order] >= 0]
        return np.asarray(positions[order[:count]], np.int64)


def _trained(parameters: Parameters, sample: Float32Array) -> Any:
    """An empty index whose lists are learnt."""
    dims, lists = parameters.dims, parameters.lists
    kmeans = faiss.Kmeans(
        dims, lists, niter=10, seed=parameters.seed + 1, min_points_per_centroid=1, max_points_per_centroid=2**20
    )
    kmeans.train(sample)
    if lists >= _HNSW_FROM:
        quantiser = faiss.IndexHNSWFlat(dims, 32)
        quantiser.hnsw.efConstruction = 80
        quantiser.hnsw.efSearch = 8  # while building; a query brings its own
    else:
        quantiser = faiss.IndexFlatL2(dims)
    quantiser.add(kmeans.centroids)
    index = faiss.IndexIVFRaBitQ(quantiser, dims, lists, faiss.METRIC_L2, True, parameters.bits)
    quantiser.this.disown()
    index.own_fields = True
    index.train(sample[: parameters.lists])
    return index


def _open(path: Path, dims: int) -> Any:
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except (RuntimeError, MemoryError) as error:
        raise Corrupt(
            f"{path} is not an index FAISS can read: {str(error).splitlines()[-1][:200]}",
            remedy="Build it again with `smalti index build`.",
        ) from None
    if not isinstance(index, faiss.IndexIVFRaBitQ) or index.d != dims:
        raise Corrupt(f"{path} holds another kind of index.", remedy="Build it again with `smalti index build`.")
    lists = faiss.downcast_InvertedLists(index.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        lists.prefetch_nthread = 0  # else every search starts up to 32 threads
    return index


def _lookup(index: Any, probes: int, allowed: UInt8Array | None) -> Any:
    """Parameters of one search: shared state of the index is never touched.

    FAISS keeps bare pointers, so the Python owners of what it points at travel along as attributes.
    """
    params = faiss.IVFRaBitQSearchParameters()
    params.nprobe, params.qb = min(probes, int(index.nlist)), index.qb
    if isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW):
        params.kept_graph = faiss.SearchParametersHNSW()
        params.kept_graph.efSearch = max(32, 2 * probes)
        params.quantizer_params = params.kept_graph
    if allowed is not None:
        params.kept_bits = allowed
        params.kept_selector = faiss.IDSelectorBitmap(allowed)
        params.sel = params.kept_selector
    return params
