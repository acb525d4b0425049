"""The queue of an encoder: who shares batches, who goes first, who is refused, and that nobody suffers from another."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from service.encoder import Encoder, lanes
from service.encoder import encode as module
from service.encoder.engines import Engine
from service.errors import Corrupt, Unavailable
from service.registry import SHIPPED, Registry
from tests.pixels import random_dpixels

BATCH = 8
ENDS = ("it broke", "nobody waits", "would wait", "closed")


@pytest.fixture(scope="module")
def model():
    return Registry((SHIPPED,)).get("smalti-mini")


class Slow:
    """An engine in place of a graph: a vector is its pixel's first value, repeated. Runs while the gate is open."""

    def __init__(self, lanes=1, batch=BATCH):
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[np.ndarray] = []
        self.under_way = threading.Semaphore(0)
        self.engine = Engine("fake", "fp32", batch, lanes, lambda: self.run, lambda: None)

    def run(self, feeds):
        self.under_way.release()
        assert self.gate.wait(20)
        first = feeds["s2"][:, 0, 0]
        assert len(first) == self.engine.batch
        self.batches.append(first)
        if (feeds["s2_doy"] == 13).any():
            raise RuntimeError("a day that breaks the graph")
        return np.repeat(first[:, None], 128, axis=1)


def encoder_of(model, **how) -> tuple[Encoder, Slow]:
    slow = Slow(**how)
    return Encoder(model, slow.engine), slow


def pixels(n, value, day=200):
    """n pixels of one shape whose only optical observation has a value of its own."""
    d = random_dpixels([1] * n, [1] * n, [0] * n, t2=1, ta=1)
    d.s2[:] = value
    d.s2_doy[:] = day
    return d


def wait_for(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.005)


def in_queue(encoder) -> int:
    """Parts that callers have put in and that are not done."""
    return sum(len(call.parts) for call in list(encoder._lanes._calls))


def values_in(batch) -> list[int]:
    """Which callers' pixels a batch holds, in order."""
    stats = Registry((SHIPPED,)).get("smalti-mini").manifest.statistics
    return np.rint(batch * stats.s2_std[0] + stats.s2_mean[0]).astype(int).tolist()


def test_pixels_of_many_callers_share_batches(model):
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(encoder.encode, pixels(1, 1))
        assert slow.under_way.acquire(timeout=10)  # one runs alone, for nobody else was there
        rest = [pool.submit(encoder.encode, pixels(1, 100 + i)) for i in range(16)]
        wait_for(lambda: in_queue(encoder) == 17)
        assert encoder.use().pixels == 17
        slow.gate.set()
        assert first.result().floats.shape == (1, 128)
        found = [int(values_in(one.result().floats[0, :1])[0]) for one in rest]
    assert found == list(range(100, 116))  # each got its own
    assert len(slow.batches) == 3  # 1 + 8 + 8
    assert {v for batch in slow.batches[1:] for v in values_in(batch)} == set(range(100, 116))
    use = encoder.use()
    assert (use.callers, use.pixels, use.run, use.places) == (0, 0, 17, 3 * BATCH)


def test_who_is_to_be_alone_shares_no_batch(model):
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        pool.submit(encoder.encode, pixels(1, 1))
        assert slow.under_way.acquire(timeout=10)
        rest = [pool.submit(encoder.encode, pixels(3, 100 + i), alone=i < 2) for i in range(4)]
        wait_for(lambda: in_queue(encoder) == 5)
        slow.gate.set()
        assert [int(values_in(one.result().floats[0, :1])[0]) for one in rest] == [100, 101, 102, 103]
    assert sorted(sorted(set(values_in(batch))) for batch in slow.batches[1:]) == [[100], [101], [102, 103]]


def test_one_pixel_does_not_wait_for_a_crowd(model):
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        crowd = pool.submit(encoder.encode, pixels(5000, 1))
        assert slow.under_way.acquire(timeout=10)
        one = pool.submit(encoder.encode, pixels(1, 7))
        wait_for(lambda: in_queue(encoder) == 3)
        assert encoder.use().pixels == 5001
        slow.gate.set()
        one.result()
        ahead = next(i for i, batch in enumerate(slow.batches) if 7 in values_in(batch))
        assert ahead <= 2  # the batch that ran when it came, and at most one more
        assert not crowd.done() or len(slow.batches) > 600
        crowd.result()
    assert len(slow.batches) == -(-5001 // BATCH)


def test_two_crowds_go_on_side_by_side(model):
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        a = pool.submit(encoder.encode, pixels(4096, 1))
        assert slow.under_way.acquire(timeout=10)
        b = pool.submit(encoder.encode, pixels(4096, 2))
        wait_for(lambda: in_queue(encoder) == 4)
        slow.gate.set()
        a.result(), b.result()
    half = [v for batch in slow.batches[: len(slow.batches) // 2] for v in values_in(batch)]
    assert 0.3 < half.count(2) / len(half) < 0.7


def test_nobody_suffers_from_what_breaks_another(model):
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        head = pool.submit(encoder.encode, pixels(1, 1))
        assert slow.under_way.acquire(timeout=10)
        good = [pool.submit(encoder.encode, pixels(1, 10 + i)) for i in range(3)]
        bad = pool.submit(encoder.encode, pixels(2, 50, day=13))
        wait_for(lambda: in_queue(encoder) == 5)
        slow.gate.set()
        head.result()
        assert [values_in(one.result().floats[0, :1])[0] for one in good] == [10, 11, 12]
        with pytest.raises(RuntimeError, match="breaks the graph"):
            bad.result()
    assert encoder.use().callers == 0
    assert encoder.encode(pixels(1, 3)).vectors.valid.all()


def test_who_would_wait_too_long_is_refused_and_who_asks_for_little_is_not(model):
    encoder, slow = encoder_of(model)
    encoder.encode(pixels(8, 1))
    encoder._lanes._seconds = 1.0  # eight pixels a second
    slow.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        crowd = pool.submit(encoder.encode, pixels(4000, 1))
        wait_for(lambda: encoder.use().callers == 1)
        with pytest.raises(Unavailable, match="would wait 62 s") as refused:
            encoder.encode(pixels(500, 2), patience=30)
        assert refused.value.retry_after == 62.5
        few = pool.submit(encoder.encode, pixels(20, 2), patience=30)
        job = pool.submit(encoder.encode, pixels(500, 3))  # without patience it waits for as long as it takes
        wait_for(lambda: encoder.use().callers == 3)
        slow.gate.set()
        for one in (crowd, few, job):
            assert one.result().vectors.valid.all()


def test_bytes_are_bounded(model, monkeypatch):
    monkeypatch.setattr(lanes, "MOST_BYTES", 3 * 52 * 8 + 100 * 20)
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(encoder.encode, pixels(100, 1))  # more than fits, but alone
        wait_for(lambda: encoder.use().callers == 1)
        encoder._lanes._seconds = 1.0
        with pytest.raises(Unavailable, match="do not fit into memory") as refused:
            encoder.encode(pixels(1, 2), patience=30)
        assert 0 < refused.value.retry_after <= 12.5  # what is here, at eight pixels a second
        patient = pool.submit(encoder.encode, pixels(1, 2))
        slow.gate.set()
        assert whole.result().vectors.valid.all()
        assert patient.result().vectors.valid.all()


def test_a_caller_holds_two_parts_at_most(model, monkeypatch):
    prepared = []
    real = module.prepare
    monkeypatch.setattr(module, "prepare", lambda d, *rest: prepared.append(len(d)) or real(d, *rest))
    _, slow = encoder_of(model)
    encoder = Encoder(model, replace(slow.engine, chunk=16))
    slow.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        crowd = pool.submit(encoder.encode, pixels(160, 1))
        assert slow.under_way.acquire(timeout=10)
        time.sleep(0.3)
        assert len(prepared) == 3  # two in the queue, the third in its caller's hands
        slow.gate.set()
        assert crowd.result().vectors.valid.all()
    assert len(prepared) == 10


def test_who_gives_up_frees_the_place(model):
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    gone = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        crowd = pool.submit(encoder.encode, pixels(5000, 1), given_up=gone.is_set)
        assert slow.under_way.acquire(timeout=10)
        gone.set()
        with pytest.raises(Unavailable, match="nobody waits"):
            crowd.result(timeout=10)
        assert encoder.use().pixels == 0
        slow.gate.set()
        encoder.encode(pixels(1, 2))
    assert len(slow.batches) == 2  # what ran when it gave up, and the next caller's


def test_closing_tells_who_waits_and_ends_the_threads(model):
    encoder, slow = encoder_of(model, lanes=2)
    slow.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        crowd = pool.submit(encoder.encode, pixels(5000, 1))
        assert slow.under_way.acquire(timeout=10)
        closing = pool.submit(encoder.close)
        with pytest.raises(Unavailable, match="closed"):
            crowd.result(timeout=10)
        slow.gate.set()
        closing.result(timeout=10)
    with pytest.raises(Unavailable, match="closed"):
        encoder.encode(pixels(1, 1))
    assert encoder._lanes._threads
    assert not any(thread.is_alive() for thread in encoder._lanes._threads)


def test_a_forgotten_encoder_ends_its_threads(model):
    encoder, _ = encoder_of(model)
    encoder.encode(pixels(1, 1))
    threads = encoder._lanes._threads
    assert all(thread.is_alive() for thread in threads)
    del encoder
    wait_for(lambda: not any(thread.is_alive() for thread in threads))


def test_an_encoder_found_forgotten_by_its_own_lane_ends_too(model):
    """The collector may run in a lane that holds the lock; closing must neither wait for itself nor for the others."""
    encoder, _ = encoder_of(model, lanes=2)
    encoder.encode(pixels(1, 1))
    held, threads, real = encoder._lanes, list(encoder._lanes._threads), encoder._lanes._may_fill

    def found(waiting):
        held.close()  # in the lane that has the lock
        return real(waiting)

    held._may_fill = found
    with ThreadPoolExecutor(1) as pool, pytest.raises(Unavailable, match="closed"):
        pool.submit(encoder.encode, pixels(1, 1)).result(timeout=10)
    wait_for(lambda: not any(thread.is_alive() for thread in threads))


@pytest.mark.parametrize("wrong", [None, np.zeros((0, 128), np.float32), np.zeros((BATCH, 3), np.float32)])
def test_what_is_no_vector_is_its_callers_error_and_leaves_the_lanes_alive(model, wrong):
    _, slow = encoder_of(model)
    real, answers = slow.run, [wrong]
    encoder = Encoder(model, replace(slow.engine, lane=lambda: lambda feeds: answers.pop() if answers else real(feeds)))
    with ThreadPoolExecutor(1) as pool, pytest.raises((TypeError, ValueError)):
        pool.submit(encoder.encode, pixels(1, 1)).result(timeout=10)
    assert encoder.encode(pixels(1, 3)).vectors.valid.all()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lane_that_dies_leaves_nobody_waiting_and_is_replaced(model, monkeypatch):
    encoder, slow = encoder_of(model)
    slow.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        crowd = pool.submit(encoder.encode, pixels(5000, 1))
        assert slow.under_way.acquire(timeout=10)
        (lane,) = encoder._lanes._threads
        monkeypatch.setattr(encoder._lanes, "_done", lambda *_: 1 / 0)
        slow.gate.set()
        with pytest.raises(Unavailable, match="a thread of the encoder failed: ZeroDivisionError"):
            crowd.result(timeout=10)
        monkeypatch.undo()
        assert pool.submit(encoder.encode, pixels(9, 2)).result(timeout=10).vectors.valid.all()
    wait_for(lambda: not lane.is_alive())
    assert encoder.use().callers == 0


def test_a_crowd_that_fails_gives_up_and_is_closed_upon_leaves_nobody_waiting(model):
    """Callers of all kinds against lanes that are slow and break: each ends, and who is served gets its own."""
    chance, began, seconds = random.Random(4), time.monotonic(), 1.5

    def run(feeds):
        time.sleep(chance.random() * 0.002)
        if chance.random() < 0.03:
            raise RuntimeError("it broke")
        return np.repeat(feeds["s2"][:, 0, :1], 128, axis=1)

    encoder = Encoder(model, Engine("fake", "fp32", BATCH, 3, lambda: run, lambda: None, chunk=64))

    def caller(number):
        mine, ends = random.Random(number), []
        while "closed" not in ends:
            gone, total = time.monotonic() + mine.random() * 0.2, mine.choice((1, 7, 100, 400))
            how = mine.choice(({}, {"patience": 0.02}, {"given_up": lambda gone=gone: time.monotonic() > gone}))
            try:
                found = encoder.encode(pixels(total, number), **how).floats
                ends.append("served" if (np.rint(values_in(found)) == number).all() else "another's")
            except (RuntimeError, Unavailable) as error:
                ends.append(next(word for word in ENDS if word in str(error)))
            assert time.monotonic() < began + 20
        return ends

    with ThreadPoolExecutor(12) as pool:
        callers = [pool.submit(caller, 100 + number) for number in range(12)]
        time.sleep(seconds)
        encoder.close()
        met = {end for one in callers for end in one.result(timeout=20)}
    assert met == {"served", *ENDS}
    assert (encoder.use().callers, encoder.use().pixels) == (0, 0)
    assert not any(thread.is_alive() for thread in encoder._lanes._threads)


def test_numbers_that_are_not_finite_are_never_stored(model):
    _, slow = encoder_of(model)
    real = slow.run
    inf = Encoder(model, replace(slow.engine, precision="fp16", lane=lambda: lambda feeds: real(feeds) * np.inf))
    with pytest.raises(Corrupt, match=r"not finite for 3 of 3 pixels in fp16 on fake\. Use fp32"):
        inf.encode(pixels(3, 5))


@pytest.mark.parametrize("engine", ["cpu", "openvino"])
def test_a_vector_is_the_same_to_the_bit_in_company(model, engine):
    """Lone pixels and small crowds of many callers at once, against each pixel of them in one call."""
    encoder = Encoder.open(model, engine, threads=2)
    rng = np.random.default_rng(8)
    d = random_dpixels(*rng.integers(0, 50, (3, 240)), t2=60, ta=60)
    alone = encoder.encode(d)
    cuts = np.sort(rng.choice(np.arange(1, 240), 50, replace=False))
    parts = [slice(int(a), int(b)) for a, b in zip([0, *cuts], [*cuts, 240], strict=True)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda rows: encoder.encode(d[rows]), parts))
    for rows, one in zip(parts, found, strict=True):
        assert np.array_equal(one.floats, alone.floats[rows], equal_nan=True)
        assert np.array_equal(one.vectors.codes, alone.vectors.codes[rows])
        assert np.array_equal(one.counts.s2, alone.counts.s2[rows])
