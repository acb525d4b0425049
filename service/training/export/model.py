"""A network as a model of the registry: the ONNX files and the manifest that vouches for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.dpixels import BANDS
from service.families import Statistics
from service.families import family as published_family
from service.registry import MANIFEST, ModelManifest, RegisteredModel, read_model, sha256_of
from service.training.export.write import LIMIT, write_onnx
from service.training.networks import Network
from service.values import ModelIdentity


def export(
    network: Network,
    folder: Path,
    identity: ModelIdentity,
    *,
    family: str = "tessera-v2",
    statistics: Statistics | None = None,
    licence: str = "MIT",
    origin: str = "",
    title: str = "",
    depths: tuple[int, ...] = (),
    training: Mapping[str, Any] | None = None,
    half: bool = False,
    checkpoint_sha256: str = "",
    limit: int = LIMIT,
) -> RegisteredModel:
    """Write `model.onnx` and `manifest.json` into a folder and return the model.

    Args:
        network: In evaluation mode.
        folder: Made if need be.
        identity: What the model is called.
        family: Whose sampling rule and quantiser it follows.
        statistics: What its inputs were standardised with; absent: those of the family.
        licence: SPDX name.
        origin: Who made it, and from what.
        title: One line for people.
        depths: Prefix lengths it was trained for.
        training: Summary for the manifest.
        half: Whether to write `half.onnx` too, with products of float16.
        checkpoint_sha256: Of the file that the network came in.
        limit: Bytes of weights that an ONNX file itself may hold.
    """
    kind = published_family(family)
    dims = min(kind.dims, network.config.repr_dim)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for stem, prefix in (("model", ""), ("half", "half_"))[: 2 if half else 1]:
        path = folder / f"{stem}.onnx"
        data = write_onnx(network, path, dims, half=bool(prefix), limit=limit)
        files |= {f"{prefix}file": path.name, f"{prefix}sha256": sha256_of(path)}
        if data:
            files |= {f"{prefix}data_file": data.name, f"{prefix}data_sha256": sha256_of(data)}
    manifest = ModelManifest(
        identity=identity,
        family=family,
        statistics=statistics or kind.statistics,
        dims=dims,
        licence=licence,
        origin=origin,
        title=title,
        depths=depths,
        bands=BANDS,
        sampling=kind.sampling,
        quantiser=kind.quantiser,
        max_observations=kind.max_observations,
        training=training or {},
        checkpoint_sha256=checkpoint_sha256,
        **files,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return read_model(folder)
