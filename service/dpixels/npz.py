"""Reading an uploaded NPZ: sizes are judged before anything is unpacked, and no Python object is ever made."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy

from service.dpixels.arrays import ARRAYS, from_arrays
from service.dpixels.value import check_frames
from service.errors import InvalidInput, LimitExceeded, SmaltiError

HEADER: Final = 4096
"""Bytes within which the header of an .npy must end; numpy writes 128."""
SMALL: Final = 16_000_000
"""Below this many bytes the ratio of packing is nobody's danger."""
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,  # encrypted, or packed in a way that is not implemented
    ValueError,  # names that are not the UTF-8 they are flagged as, places before the file begins
)
"""What zipfile and numpy raise on damaged files."""


@dataclass(frozen=True)
class UploadLimits:
    """The most an NPZ may unpack to."""

    pixels: int
    """H * W of `bands`."""
    unpacked_bytes: int
    """All arrays together."""
    ratio: float = 250.0
    """Unpacked over packed bytes of the whole file; real series pack 1.5 to 10 times."""


@dataclass(frozen=True)
class _Member:
    """One array as the file's directory and its own header promise it."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int


def load_npz(source: IO[bytes] | Path, limits: UploadLimits) -> dict[str, np.ndarray[Any, Any]]:
    """Read and check the arrays of a d-pixel folder from an NPZ, given as a file or an open stream.

    Returns:
        The seven arrays by name, as `from_arrays` takes them.

    Raises:
        InvalidInput: The file is cut short, holds something else, or an array is wrong; names it.
        LimitExceeded: It would unpack to more than `limits`; found out before unpacking.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            infos = _directory(archive, limits)
            members = {name: _promised(archive, info, name) for name, info in infos.items()}
            _check_sides(members, limits)
            arrays = {name: _unpacked(archive, member) for name, member in members.items()}
    except SmaltiError:
        raise
    except _UNREADABLE as error:
        raise InvalidInput(f"the NPZ cannot be read: {error}.", field="body", remedy="Was it sent whole?") from None
    from_arrays(arrays)
    return arrays


def _directory(archive: zipfile.ZipFile, limits: UploadLimits) -> dict[str, zipfile.ZipInfo]:
    """The members by array name: the expected ones, each once, plainly packed, and small enough."""
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name not in ARRAYS or name in infos:
            raise InvalidInput(
                f"{info.filename[:60]!r} does not belong, or comes twice.",
                field="body",
                remedy=f"Send {', '.join(ARRAYS)}.",
            )
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InvalidInput("is encrypted or packed in an unusual way.", field=name, remedy="Use numpy.savez.")
        infos[name] = info
    unpacked = sum(info.file_size for info in infos.values())
    packed = sum(info.compress_size for info in infos.values())
    if unpacked > limits.unpacked_bytes:
        raise LimitExceeded(f"unpacks to {unpacked:,} of {limits.unpacked_bytes:,} bytes allowed.", field="body")
    if unpacked > SMALL and unpacked > limits.ratio * max(packed, 1):
        raise LimitExceeded(f"unpacks to {unpacked / max(packed, 1):,.0f} times its size.", field="body")
    return infos


def _promised(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> _Member:
    """Read only the header of a member, and hold its promise against the directory's."""
    with archive.open(info) as file:
        head = io.BytesIO(file.read(HEADER))
    try:
        version = npy.read_magic(head)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(head, max_header_size=HEADER)
    except Exception as error:  # the header is evaluated as Python text: of what that may raise there is no list
        raise InvalidInput(f"is not an .npy array: {error}", field=name) from None
    if dtype.hasobject or dtype.kind not in "biuf":
        raise InvalidInput(f"is {dtype}.", field=name, remedy="Only plain numbers are read.")
    start = head.tell()
    if start + math.prod(shape) * dtype.itemsize != info.file_size or min(shape, default=1) < 0:
        raise InvalidInput(f"promises {shape} of {dtype}, which is not the {info.file_size:,} bytes held.", field=name)
    return _Member(info, shape, fortran, dtype, start)


def _check_sides(members: dict[str, _Member], limits: UploadLimits) -> None:
    for name, member in members.items():
        check_frames(member.shape[0] if member.shape else 0, name)
    bands = members.get("bands")
    pixels = math.prod(bands.shape[1:3]) if bands else 0
    if pixels > limits.pixels:
        raise LimitExceeded(
            f"{pixels:,} pixels, at most {limits.pixels:,} are taken.", field="bands", remedy="Send less at once."
        )


def _unpacked(archive: zipfile.ZipFile, member: _Member) -> np.ndarray[Any, Any]:
    """Unpack one array; the reader stops at the promised size and checks the checksum."""
    with archive.open(member.info) as file:
        raw = file.read(member.info.file_size)
    if len(raw) != member.info.file_size:
        name = member.info.filename.removesuffix(".npy")
        raise InvalidInput(f"unpacks to {len(raw):,} of {member.info.file_size:,} bytes promised.", field=name)
    flat = np.frombuffer(raw, member.dtype, offset=member.start)
    array = flat.reshape(member.shape, order="F" if member.fortran else "C")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))
