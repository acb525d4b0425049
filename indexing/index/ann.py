"""The only door to FAISS: an inverted file of 1- or 2-bit RaBitQ codes (Gao & Long 2024, arXiv 2405.12497).

FAISS proposes candidates; its distances are estimates and never leave this package as scores. Types keep apart what
FAISS does not: lists that are being filled can only be added to, those that are mapped from a file only be searched.
Adding to mapped lists ends the process inside FAISS, where nothing can catch it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faiss as _faiss
import numpy as np

from indexing.index.packed import BLOCK_OF_CODES, Layout
from service.errors import Corrupt, InvalidInput
from service.together import cores, together
from service.values import Float32Array, Int8Array, Int64Array, UInt8Array

faiss: Any = _faiss  # its type hints miss much of what its wrapper adds at run time

KIND: Final = "ivf-rabitq-fastscan"
VERSION: Final = str(faiss.__version__)
MIN_LISTS: Final = 16
MAX_LISTS: Final = 65_536
MAX_SAMPLE: Final = 1 << 19
"""Pixels to learn from, at most: with float32 pieces of them, half of what a build may keep in memory."""
_PIXELS_A_LIST: Final = 1000
_HNSW_FROM: Final = 4096
"""From this many lists on, finding the nearest ones through a graph is faster than trying them all."""
_TWO_LEVELS_FROM: Final = 1024
"""From this many lists on they are learnt in two steps: an eighth of the time, for 2 % of the quantisation error."""
_NARROW: Final = 64
"""Up to this many dimensions one bit each is too coarse (16 dimensions: recall .79, with two bits .99)."""
_ITERATIONS: Final = 10
_WORTH_IT: Final = 1 << 24
"""Distances from which on FAISS shares them out to several threads, that wait for each other by spinning."""
_QUERY_BITS: Final = 8
_WAITED_S: Final = 2e-3
"""A search that took longer for each query waited for a disk: the next one asks for its lists beforehand."""
_REMEDY: Final = "Build it again with `smalti index build`."


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
    """What sampling and clustering start from."""

    @classmethod
    def of(cls, pixels: int, dims: int, seed: int) -> Parameters:
        """The layout for so many pixels: lists are a power of two."""
        lists = 2 ** round(float(np.log2(max(pixels / _PIXELS_A_LIST, 1))))
        return cls(dims, int(np.clip(lists, MIN_LISTS, MAX_LISTS)), 2 if dims <= _NARROW else 1, seed)

    @property
    def sample(self) -> int:
        """How many pixels to learn the lists from."""
        return min(64 * self.lists, MAX_SAMPLE)


def unit(codes: Int8Array, norms: Float32Array | None = None) -> Float32Array:
    """(n, d) float32 vectors of length 1 along (n, d) int8 codes: the scale of a pixel does not turn it."""
    vectors = codes.astype(np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None] if norms is None else norms[:, None]
    return vectors


class Quantiser:
    """The centres of the lists, and the way to the nearest ones. Safe to search from many threads."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.lists = int(index.ntotal)
        self.dims = int(index.d)
        self._is_graph = isinstance(index, faiss.IndexHNSW)

    @classmethod
    def trained(cls, parameters: Parameters, sample: Int8Array) -> Quantiser:
        """Learn the lists. The order of the sample and the seed decide the outcome.

        Args:
            parameters: The layout; fewer lists are made where the sample is smaller.
            sample: (n, d) int8 codes of pixels that have a direction.

        Raises:
            InvalidInput: The sample is empty.
        """
        if not len(sample):
            raise InvalidInput("there is no pixel to index.", field="sample")
        lists = min(parameters.lists, len(sample))
        learn = _two_levels if lists >= _TWO_LEVELS_FROM else _one_level
        centres = learn(sample, lists, parameters.seed)
        if lists >= _HNSW_FROM:
            index = faiss.IndexHNSWFlat(parameters.dims, 32)
            index.hnsw.efConstruction = 80
            index.hnsw.efSearch = 8  # while building; a query brings its own
        else:
            index = faiss.IndexFlatL2(parameters.dims)
        _threads_for(lists * lists)
        index.add(centres)
        return cls(index)

    @classmethod
    def read(cls, path: Path, dims: int) -> Quantiser:
        """Open what `write` wrote.

        Raises:
            Corrupt: It cannot be read, or holds something else. Names the file.
        """
        try:
            index = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            why = str(error).splitlines()[-1][:200]
            raise Corrupt(f"{path} is not an index FAISS can read: {why}", remedy=_REMEDY) from None
        if not isinstance(index, faiss.IndexHNSWFlat | faiss.IndexFlatL2) or index.d != dims or not index.ntotal:
            raise Corrupt(f"{path} holds another kind of index.", remedy=_REMEDY)
        return cls(index)

    def write(self, path: Path) -> None:
        """Store centres and graph: a graph made by several threads is not the same twice.

        Not by `faiss.write_index`, which says nothing when the disk is full at the end of a file.
        """
        path.write_bytes(faiss.serialize_index(self._index))

    def nearest(self, directions: Float32Array, probes: int) -> tuple[Float32Array, Int64Array]:
        """Squared distances and numbers, each (q, probes), of the lists nearest to (q, d) directions; -1: no list."""
        probes = min(probes, self.lists)
        params = None
        if self._is_graph:
            params = faiss.SearchParametersHNSW()
            params.efSearch = max(32, 2 * probes)
        distances, lists = self._index.search(directions, probes, params=params)
        return distances, lists

    def filled_by(self, bits: int, *, own_lists: bool) -> Any:
        """An empty inverted file under these centres, which must outlive it."""
        index = faiss.IndexIVFRaBitQFastScan(
            self._index, self.dims, self.lists, faiss.METRIC_L2, BLOCK_OF_CODES, own_lists, bits
        )
        index.is_trained = True  # its codes hang on the centres alone: there is nothing else to learn
        index.qb = _QUERY_BITS
        return index

    def block_bytes(self, bits: int) -> int:
        """Bytes of 32 packed codes."""
        return _bytes_a_block(self.filled_by(bits, own_lists=False))


class Filling:
    """Lists that are being filled in memory, 35 bytes a pixel.

    Args:
        quantiser: The centres.
        bits: Bits kept for each dimension.
    """

    def __init__(self, quantiser: Quantiser, bits: int) -> None:
        self._quantiser = quantiser
        self._index = quantiser.filled_by(bits, own_lists=True)

    def add(self, positions: Int64Array, vectors: Float32Array) -> None:
        """Add (n,) int64 positions, each new, with their (n, d) float32 vectors of length 1."""
        if len(positions):
            _threads_for(len(positions) * self._quantiser.lists)
            self._index.add_with_ids(np.ascontiguousarray(vectors), np.ascontiguousarray(positions))

    def layout(self) -> Layout:
        """How what was added is laid out in a file."""
        held = self._index.invlists
        sizes = np.array([held.list_size(number) for number in range(self._quantiser.lists)], np.int64)
        return Layout(sizes, _bytes_a_block(self._index))

    def lists(self) -> Iterator[tuple[UInt8Array, Int64Array]]:
        """Each list as it is kept in memory: its blocks of 32 packed codes, and its positions. Views, to be copied."""
        held, layout = faiss.downcast_InvertedLists(self._index.invlists), self.layout()
        for number, size in enumerate(layout.sizes.tolist()):
            if size:
                codes = faiss.rev_swig_ptr(held.get_codes(number), int(layout.code_bytes[number]))
                yield codes, faiss.rev_swig_ptr(held.get_ids(number), size)
            else:
                yield np.empty(0, np.uint8), np.empty(0, np.int64)


class MappedLists:
    """Packed lists in a file, searched where they lie: every process on a machine shares one copy of them.

    FAISS 1.15 reads an index of this kind into memory whatever it is asked; handing it lists on disk that were laid
    out as it lays them out in memory is what it does support. Safe to search from many threads.

    Args:
        quantiser: What they were filled under.
        path: The file, as `packed.write` wrote it, of the size that the layout says.
        layout: Of the file.
        bits: Bits kept for each dimension.

    Raises:
        Corrupt: The layout is not of such lists.
    """

    def __init__(self, quantiser: Quantiser, path: Path, layout: Layout, bits: int) -> None:
        self._quantiser = quantiser
        index = quantiser.filled_by(bits, own_lists=False)
        if len(layout.sizes) != quantiser.lists or layout.block_bytes != _bytes_a_block(index):
            raise Corrupt(f"{path} has another layout than this release of FAISS searches.", remedy=_REMEDY)
        lists = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size = quantiser.lists, layout.block_bytes // BLOCK_OF_CODES
        lists.filename, lists.totsize, lists.read_only = str(path), layout.bytes, True
        lists.prefetch_nthread = 0  # else every search starts up to 32 threads
        lists.lists.resize(quantiser.lists)
        table = np.ascontiguousarray(np.stack([layout.sizes, layout.capacities, layout.offsets], axis=1), np.int64)
        faiss.memcpy(lists.lists.data(), faiss.swig_ptr(table), table.nbytes)
        if layout.bytes:
            lists.do_mmap()
            _read_nothing_ahead(int(lists.ptr), layout.bytes)
        lists.this.disown()
        index.replace_invlists(lists, True)
        index.ntotal = self.count = int(layout.sizes.sum())
        self._index = index
        self._layout = layout
        self._path = path
        self._waits = True

    def search(
        self,
        directions: Float32Array,
        nearest: tuple[Float32Array, Int64Array],
        count: int,
        allowed: UInt8Array | None = None,
    ) -> tuple[Float32Array, Int64Array]:
        """Estimated squared distances and positions, each (q, count), nearest first; position -1: there are no more.

        Args:
            directions: (q, d) float32 of length 1.
            nearest: What `Quantiser.nearest` says of them: only these lists are looked into.
            count: How many, 1 or more.
            allowed: A bit for each position, lowest bit first: only these can be found; all where absent.
        """
        distances, lists = (np.ascontiguousarray(each) for each in nearest)
        start = time.perf_counter()
        if self._waits:
            self._fetch(np.unique(lists))
        found = np.empty((len(directions), count), np.float32), np.empty((len(directions), count), np.int64)
        params = faiss.IVFRaBitQSearchParameters()
        params.nprobe, params.qb = lists.shape[1], _QUERY_BITS
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(allowed)  # a bare pointer to it is kept, for the length of this call
            params.sel = selector
        args = directions, lists, distances, *found
        x, assigned, to_centres, estimates, positions = (faiss.swig_ptr(np.ascontiguousarray(each)) for each in args)
        self._index.search_preassigned_c(
            len(directions), x, count, assigned, to_centres, estimates, positions, False, params
        )
        self._waits = time.perf_counter() - start > _WAITED_S * len(directions)
        return found

    def _fetch(self, lists: Int64Array) -> None:
        """Have the system read some lists at once; a search would have it read one page after another."""
        if not hasattr(os, "posix_fadvise"):
            return
        starts, sizes = self._layout.offsets, self._layout.list_bytes
        with suppress(FileNotFoundError), self._path.open("rb") as file:  # mapped lists outlive their name
            for number in lists[(lists >= 0) & (sizes[lists] > 0)].tolist():  # no bytes would mean: all there are
                os.posix_fadvise(file.fileno(), int(starts[number]), int(sizes[number]), os.POSIX_FADV_WILLNEED)


def _read_nothing_ahead(address: int, size: int) -> None:
    """Have the system read no more of a mapped file than is looked at: a list is some kB, and lies anywhere."""
    if hasattr(mmap, "MADV_RANDOM"):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_RANDOM)


def on_this_thread_alone() -> None:
    """Have FAISS use no other thread for what this one asks next: two a query triple its time under load."""
    faiss.omp_set_num_threads(1)


def _threads_for(products: int) -> None:
    """Have FAISS use other threads for what this one asks next where it is worth waking them."""
    faiss.omp_set_num_threads(cores() if products > _WORTH_IT else 1)


def _bytes_a_block(index: Any) -> int:
    return int(index.get_block_stride())


def _one_level(sample: Int8Array, lists: int, seed: int) -> Float32Array:
    kmeans = faiss.Kmeans(
        sample.shape[1], lists, niter=_ITERATIONS, seed=seed + 1,
        min_points_per_centroid=1, max_points_per_centroid=MAX_SAMPLE,
    )  # fmt: skip
    _threads_for(len(sample) * lists)
    kmeans.train(unit(sample))
    return np.asarray(kmeans.centroids, np.float32)


def _two_levels(sample: Int8Array, lists: int, seed: int) -> Float32Array:
    """Learn a few regions first and then, for each, its share of the lists: no pixel is compared with all of them."""
    regions = round(lists**0.5)
    centres = faiss.IndexFlatL2(sample.shape[1])
    centres.add(_one_level(sample[: 256 * regions], regions, seed))
    step = 1 << 16
    _threads_for(len(sample) * regions)
    parts = [centres.search(unit(sample[n : n + step]), 1)[1][:, 0] for n in range(0, len(sample), step)]
    region = np.concatenate(parts)
    held = np.bincount(region, minlength=regions)
    members = np.split(np.argsort(region, kind="stable"), np.cumsum(held)[:-1])
    shares = _shares(held, lists).tolist()

    def work(numbers: Iterator[int]) -> list[tuple[int, Float32Array]]:
        return [(number, _one_level(sample[members[number]], shares[number], seed)) for number in numbers]

    learnt = [each for part in together(work, [n for n in range(regions) if shares[n]]) for each in part]
    return np.concatenate([each for _, each in sorted(learnt, key=lambda pair: pair[0])])


def _shares(held: Int64Array, lists: int) -> Int64Array:
    """How many lists each region gets, by the pixels it holds; together `lists`, and none more than it has pixels."""
    ideal = held * (lists / held.sum())
    shares: Int64Array = np.minimum(np.floor(ideal).astype(np.int64), held)
    while (missing := lists - int(shares.sum())) > 0:
        able = np.flatnonzero(shares < held)
        shares[able[np.argsort(shares[able] - ideal[able], kind="stable")[:missing]]] += 1
    return shares
