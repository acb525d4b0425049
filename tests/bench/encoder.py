"""Encoders beside the plain procedure: repeat to a multiple of 8, group by length, run torch in float32.

    python -m tests.bench.encoder        prints a table and writes .bench/encoder.json

About 40 optical and 57 radar observations a pixel. Both sides take what a user hands over, raw d-pixels, and give
int8 codes and scales. Both have as many threads; the other's preparation is vectorised as well as we
know how, so that what is compared is the network. Runs of all engines alternate with it, and the median of their
ratios is told. Rows of an engine that this machine cannot run are there all the same, with the reason.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from service.dpixels import DPixels
from service.encoder import Encoder
from service.encoder.parts import Part, packed
from service.errors import Unavailable
from service.quant import quantise
from service.registry import SHIPPED, RegisteredModel, Registry
from service.sampling import PADDING, bin_of, prepare
from service.sampling.rules import orders
from service.training.export import export
from service.training.networks import Network, build
from service.training.recipes import MINI, SIZES
from service.training.reference import reference_vectors
from service.values import Float32Array, ModelIdentity

OUT = Path(__file__).resolve().parents[2] / ".bench" / "encoder.json"
THREADS = min(2, os.cpu_count() or 1)
PLAIN = "torch fp32, per bin"
CHECKED = 16
"""Pixels whose vectors are held against the literal procedure."""
ENGINES = (("cpu", "fp32", "ort-fp32"), ("openvino", "fp32", "openvino-fp32"), ("openvino", "fp16", "openvino-fp16"))
CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "mini": ("tessera-v2", vars(MINI), 1024, 5),
    "nano": ("tessera-v2", vars(SIZES["nano"]), 1024, 5),
    "small": ("tessera-v2", vars(SIZES["small"]), 512, 5),
    "medium": ("tessera-v2", vars(SIZES["medium"]), 256, 5),
    "v1.1": ("tessera-v1.1-mpc", {}, 192, 3),
}
"""Family, sizes, pixels, rounds. Pixels enough that bins of the one and batches of the other are filled: of 32, which
six pairs of lengths share, more than half of the places in batches of 16 would be empty."""
TARGETS = {
    "small-openvino-fp16": 4.0,
    "medium-openvino-fp16": 4.5,
    "nano-openvino-fp16": 2.0,
    "v1.1-openvino-fp16": 3.5,
    "small-ort-fp32": 0.9,
}

Row = dict[str, Any]


def typical(n: int, seed: int = 0) -> DPixels:
    """n pixels with 32 to 48 of 73 optical dates, and 26 to 31 of 31 radar dates of either orbit."""
    rng = np.random.default_rng(seed)

    def some(least: int, most: int, t: int) -> Any:
        counts = rng.integers(least, most + 1, (n, 1))
        return rng.random((n, t)).argsort(axis=1).argsort(axis=1) < counts

    radar = [rng.integers(2500, 7000, (n, 31, 2)) * some(26, 31, 31)[..., None] for _ in range(2)]
    days = np.broadcast_to(np.arange(2, 366, 5), (n, 73)), np.broadcast_to(np.arange(3, 366, 12), (n, 31))
    s2 = rng.integers(200, 6000, (n, 73, 10)).astype(np.uint16)
    return DPixels(s2, days[0], some(32, 48, 73), radar[0], days[1], radar[1], days[1], shape=(n,))


def per_bin(network: Network, dpixels: DPixels, model: RegisteredModel) -> Float32Array:
    """The published procedure with vectorised preparation: whole bins, repeated observations, no masks."""
    m = model.manifest
    ready = prepare(dpixels, m.statistics, m.sampling, m.bands)
    streams, lengths = [], []
    for held in (ready.s2, ready.s1):
        seen = (held.logm > PADDING / 2).sum(axis=1)
        order = orders(int(seen.max()), sampling=m.sampling)[seen]
        lengths.append(np.array([bin_of(int(n)) for n in seen]))
        streams.append((held, order))
    out = np.empty((len(dpixels), network.config.repr_dim), np.float32)
    for pair in np.unique(np.stack(lengths, axis=1), axis=0):
        members = np.flatnonzero((lengths[0] == pair[0]) & (lengths[1] == pair[1]))
        inputs = []
        for (held, order), length in zip(streams, pair, strict=True):
            places = members[:, None], order[members, :length]
            inputs += [torch.from_numpy(held.values[places]), torch.from_numpy(held.doy[places])]
        with torch.inference_mode():
            out[members] = network(*inputs).numpy()
    return out


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def opened(model: RegisteredModel) -> tuple[dict[str, Encoder], dict[str, str]]:
    """The engines that this machine has, by the end of their rows' names, and why it has not the others."""
    encoders, missing = {}, {}
    for engine, precision, name in ENGINES:
        try:
            encoders[name] = Encoder.open(model, engine, threads=THREADS, precision=precision)
        except Unavailable as error:
            missing[name] = error.message
    return encoders, missing


def measured(case: str, network: Network, model: RegisteredModel, pixels: int, rounds: int, peak: float) -> list[Row]:
    """Throughput of every engine against the plain procedure, and how far vectors and codes are off."""
    dpixels, encoders_missing = typical(pixels), opened(model)
    encoders, missing = encoders_missing
    few, dims = dpixels[:CHECKED], model.manifest.dims
    exact = reference_vectors(network, few, model.manifest.statistics, sampling=model.manifest.sampling)[:, :dims]
    with FlopCounterMode(display=False) as counter:
        per_bin(network, few, model)
    flops = counter.get_total_flops() / CHECKED
    times: dict[str, list[float]] = {name: [] for name in (PLAIN, *encoders)}

    def plain() -> None:
        quantise(per_bin(network, dpixels, model)[:, :dims], model.manifest.quantiser)

    for lap in range(rounds + 1):
        for name in times:
            encoder = encoders.get(name)
            taken = seconds(partial(encoder.encode, dpixels) if encoder else plain)
            if lap:  # the first is to warm up
                times[name].append(taken)
    rows = []
    for _, precision, name in ENGINES:
        row: Row = {"case": f"{case}-{name}", "metric": "throughput", "unit": "pixels/s", "other_name": PLAIN}
        target, other = TARGETS.get(row["case"]), pixels / statistics.median(times[PLAIN])
        if name in missing:
            rows.append({**row, "ours": None, "other": other, "ratio": None, "target": target, "why": missing[name]})
            continue
        ours = pixels / statistics.median(times[name])
        ratio = statistics.median(a / b for a, b in zip(times[PLAIN], times[name], strict=True))
        share = {"flops_per_pixel": flops, "share_of_fp32_peak": ours * flops / peak}
        rows.append({**row, "ours": ours, "other": other, "ratio": ratio, "target": target, **share})
        rows += off(row["case"], precision, encoders[name], few, exact)
    for encoder in encoders.values():
        encoder.close()
    return rows


def off(case: str, precision: str, encoder: Encoder, few: DPixels, exact: Float32Array) -> list[Row]:
    """How far an engine is off: float32 in numbers (relative for v1.1, whose vectors have no fixed size), fp16 in
    steps of the stored int8."""
    found = encoder.encode(few)
    difference = np.abs(found.floats - exact)
    _, scales = quantise(exact, encoder.manifest.quantiser)
    if precision == "fp16":
        worst, allowed, what = float((difference / scales[:, None]).max()), 0.5, "largest error, int8 steps"
    elif encoder.manifest.quantiser == "v1":
        worst, allowed, what = float(difference.max() / np.abs(exact).max()), 1e-5, "largest relative difference"
    else:
        worst, allowed, what = float(difference.max()), 2e-5, "largest difference"
    return [{"case": case, "metric": what, "unit": "", "ours": worst, "other": allowed, "other_name": "allowed",
             "ratio": allowed / max(worst, 1e-12), "target": 1.0}]  # fmt: skip


def gemm_peaks(side: int = 2048) -> dict[str, float]:
    """FLOP/s in float32 that each library reaches in one large product on THREADS threads: the best of a few."""
    a, b = np.random.default_rng(0).random((2, side, side), np.float32)
    one, two = torch.from_numpy(a), torch.from_numpy(b)
    session = product(side)
    ways = {
        "torch": lambda: torch.mm(one, two),
        "numpy": lambda: a @ b,
        "onnxruntime": lambda: session.run(None, {"a": a, "b": b}),
    }
    return {name: 2 * side**3 / min(seconds(way) for _ in range(6)) for name, way in ways.items()}


def product(side: int) -> onnxruntime.InferenceSession:
    """One product of two square matrices."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", ends[:2], ends[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def preprocessing(model: RegisteredModel, pixels: int = 256) -> Row:
    """Everything but the network, alone and on one thread, against a whole run of small in float32."""
    encoder, dpixels = Encoder.open(model, "cpu", threads=THREADS), typical(pixels)
    m, batch = model.manifest, encoder.engine.batch

    def without() -> None:
        ready = prepare(dpixels, m.statistics, m.sampling, m.bands)
        part = Part(ready, ready.wanted, np.empty((pixels, m.dims), np.float32))
        while (shape := part.fullest) is not None:
            packed([(part, part.take(shape, batch))], batch)
        quantise(np.ones((pixels, m.dims), np.float32), m.quantiser)

    encoder.encode(dpixels[:32])
    share = statistics.median(seconds(without) / seconds(lambda: encoder.encode(dpixels)) for _ in range(3))
    return {"case": "preprocessing-share", "metric": "share of a run of small in fp32", "unit": "", "ours": share,
            "other": 0.1, "other_name": "allowed", "ratio": 0.1 / share, "target": 1.0}  # fmt: skip


def shipped() -> Row:
    """Pixels a second of the model that comes with smalti, by auto."""
    encoder, dpixels = Encoder.open(Registry((SHIPPED,)).get("smalti-mini"), threads=THREADS), typical(2048)
    encoder.encode(dpixels)
    speed = len(dpixels) / statistics.median(seconds(lambda: encoder.encode(dpixels)) for _ in range(3))
    return {"case": "mini-shipped", "metric": f"throughput on {encoder.device}", "unit": "pixels/s", "ours": speed,
            "other": 4000.0, "other_name": "the bar, 2 cores", "ratio": speed / 4000, "target": 1.0}  # fmt: skip


def show(row: Row) -> None:
    """One line."""
    told = "-" if row["ours"] is None else f"{row['ours']:.4g}"
    ratio = "" if row["ratio"] is None else f"x{row['ratio']:.2f}"
    target = f"(target {row['target']:g})" if row["target"] else ""
    share = f"{row['share_of_fp32_peak']:.0%} of the fp32 GEMM peak" if "share_of_fp32_peak" in row else ""
    name, what = row["case"], row["metric"]
    print(f"{name:22} {what:32} {told:>9} {row['other']:>9.4g} {ratio:>7} {target} {share}{row.get('why', '')}")


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    rows: list[Row] = []
    peaks = gemm_peaks()
    with tempfile.TemporaryDirectory() as folder:
        for case, (family, sizes, pixels, rounds) in CASES.items():
            peaks = {name: max(peaks[name], now) for name, now in gemm_peaks().items()}  # a busy machine gives less
            network = build(family, sizes)
            model = export(network, Path(folder) / case, ModelIdentity(f"bench-{case}", "1"), family=family)
            rows += measured(case, network, model, pixels, rounds, max(peaks.values()))
            if case == "small":
                rows.append(preprocessing(model))
    rows.append(shipped())
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": rows, "fp32_peak_flops": peaks}, indent=1) + "\n")
    told = ", ".join(f"{name} {peak / 1e9:.0f}" for name, peak in peaks.items())
    print(f"fp32 GEMM peak on {THREADS} threads, GFLOP/s: {told}; shares are of the highest")
    for row in rows:
        show(row)


if __name__ == "__main__":
    main()
