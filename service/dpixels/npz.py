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
from service.dpixels.pixels import PIXEL_ARRAYS, TEXT, from_pixels
from service.dpixels.scratch import expect, held, in_c_order, on_disk, spool
from service.dpixels.upload import Declared, Upload, UploadLimits
from service.dpixels.value import check_days, check_frames
from service.errors import InvalidInput, LimitExceeded, SmaltiError

HEADER: Final = 4096
"""Bytes within which the header of an .npy must end; numpy writes 128."""
SMALL: Final = 16_000_000
"""Below this many bytes the ratio of packing is nobody's danger."""
PIECE: Final = 1_000_000
"""Bytes that are unpacked together."""
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
class _Member:
    """One array as the file's directory and its own header promise it."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int


def read_npz(source: IO[bytes] | Path, limits: UploadLimits, declared: Declared) -> Upload:
    """The d-pixels of an NPZ: of a published tile folder (`from_arrays`), or with the pixel first (`from_pixels`).

    Args:
        source: A file or an open stream.
        limits: The most it may hold.
        declared: Units of the second layout, and the window. A folder holds stored integers, and nothing else.

    Raises:
        InvalidInput, LimitExceeded, Unavailable: As `load_npz`, `from_arrays` and `from_pixels` do.
    """
    arrays = load_npz(source, limits)
    if not arrays.keys() & set(ARRAYS) and arrays:
        return from_pixels(arrays, declared)
    for sensor, stored in (("s2", "dn"), ("s1", "scaled")):
        if getattr(declared, f"{sensor}_unit") not in (None, stored):
            raise InvalidInput(
                f"the arrays of a d-pixel folder are {stored}.",
                field=f"{sensor}_unit",
                remedy="Leave it out, or send arrays with the pixel first.",
            )
    dpixels = from_arrays(arrays)
    for name in ("doys", "sar_ascending_doy", "sar_descending_doy"):
        check_days(arrays[name], declared.window, name)
    return Upload(dpixels)


def load_npz(source: IO[bytes] | Path, limits: UploadLimits) -> dict[str, np.ndarray[Any, Any]]:
    """Unpack the arrays of an NPZ, one layout or the other; large ones into files that are read where they lie.

    Returns:
        The arrays by name, as `from_arrays` or `from_pixels` take them.

    Raises:
        InvalidInput: The file is cut short, holds something else, or an array is wrong; names it.
        LimitExceeded: It would unpack to more than `limits`; found out before unpacking.
        Unavailable: The disk is full, or other uploads leave no room.
    """
    _check_zip(source)
    try:
        with zipfile.ZipFile(source) as archive:
            infos = _directory(archive, limits)
            members = {name: _promised(archive, info, name) for name, info in infos.items()}
            _check_sides(members, limits)
            expect(sum(_takes(member, name) for name, member in members.items()))
            return {name: _unpacked(archive, member, name) for name, member in members.items()}
    except SmaltiError:
        raise
    except _UNREADABLE as error:
        raise InvalidInput(f"the NPZ cannot be read: {error}.", field="body", remedy="Was it sent whole?") from None


def _check_zip(source: IO[bytes] | Path) -> None:
    """Tell what is no NPZ at all from one whose end, where the directory lies, is missing."""
    if zipfile.is_zipfile(source):
        return
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(4)
    else:
        source.seek(0)
        head = source.read(4)
    if not head:
        raise InvalidInput("is empty.", field="body", remedy="Send an NPZ.")
    if head != b"PK\x03\x04":
        raise InvalidInput("is no NPZ: it does not begin like a zip file.", field="body", remedy="Use numpy.savez.")
    raise InvalidInput("the NPZ is cut short: its directory is missing.", field="body", remedy="Send all of it.")


def _directory(archive: zipfile.ZipFile, limits: UploadLimits) -> dict[str, zipfile.ZipInfo]:
    """The members by array name: those of one layout, each once, plainly packed, and small enough."""
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        _check_member(info, name, set(infos))
        infos[name] = info
    unpacked = sum(info.file_size for info in infos.values())
    packed = sum(info.compress_size for info in infos.values())
    if unpacked > limits.unpacked_bytes:
        said = f"unpacks to {unpacked:,} of {limits.unpacked_bytes:,} bytes allowed."
        raise LimitExceeded(said, field="body", remedy="Send fewer pixels at once.")
    if unpacked > SMALL and unpacked > limits.ratio * max(packed, 1):
        said = f"unpacks to {unpacked / max(packed, 1):,.0f} times its size, more than measurements do."
        raise LimitExceeded(said, field="body", remedy=f"At most {limits.ratio:g} times is taken.")
    return infos


def _check_member(info: zipfile.ZipInfo, name: str, before: set[str]) -> None:
    shown = repr(info.filename[:60])
    if name not in ARRAYS and name not in PIXEL_ARRAYS:
        remedy = f"Send {', '.join(ARRAYS)}; or, with the pixel first, {', '.join(PIXEL_ARRAYS)}."
        raise InvalidInput(f"{shown} does not belong into the NPZ.", field="body", remedy=remedy)
    if name in before:
        raise InvalidInput(f"{shown} comes twice.", field=name, remedy="Send each array once.")
    if before and (name in ARRAYS) != (next(iter(before)) in ARRAYS):
        raise InvalidInput(f"{shown} is of the other layout.", field=name, remedy="Send arrays of one layout only.")
    if info.flag_bits & 1:
        raise InvalidInput("is encrypted.", field=name, remedy="Use numpy.savez.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidInput("is packed in an unusual way.", field=name, remedy="Use numpy.savez or savez_compressed.")


def _promised(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> _Member:
    """Read only the header of a member, and hold its promise against the directory's."""
    with archive.open(info) as file:
        head = io.BytesIO(file.read(HEADER))
    try:
        version = npy.read_magic(head)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(head, max_header_size=HEADER)
    except Exception as error:  # the header is evaluated as Python text: of what that may raise there is no list
        raise InvalidInput(f"is not an .npy array: {error}", field=name, remedy="Use numpy.savez.") from None
    if dtype.hasobject or dtype.kind not in ("biufUS" if name in TEXT else "biuf"):
        raise InvalidInput(f"is {dtype}.", field=name, remedy="Only plain numbers are read.")
    start = head.tell()
    if start + math.prod(shape) * dtype.itemsize != info.file_size or min(shape, default=1) < 0:
        said = f"promises {shape} of {dtype}, which is not the {info.file_size:,} bytes held."
        raise InvalidInput(said, field=name, remedy="Was it written whole?")
    return _Member(info, shape, fortran, dtype, start)


def _check_sides(members: dict[str, _Member], limits: UploadLimits) -> None:
    """Count frames and pixels by what the headers promise, before anything is unpacked."""
    pixels = 0
    for name, member in members.items():
        time_first = name in ARRAYS
        if member.shape and time_first:
            check_frames(member.shape[0], name)
        elif len(member.shape) == 3:
            check_frames(member.shape[1], name)
        if len(member.shape) >= 3:
            pixels = max(pixels, math.prod(member.shape[1:3]) if time_first else member.shape[0])
    if pixels > limits.pixels:
        name = "bands" if "bands" in members else "s2" if "s2" in members else "body"
        said = f"{pixels:,} pixels, at most {limits.pixels:,} are taken."
        raise LimitExceeded(said, field=name, remedy="Send less at once.")


def _takes(member: _Member, name: str) -> int:
    """Bytes of an array as it is unpacked, turned into C order, and converted with its days and validity."""
    size = member.info.file_size * (2 if member.fortran and len(member.shape) > 1 else 1)
    if len(member.shape) == 3 and name not in ARRAYS:
        size += math.prod(member.shape[:2]) * (2 * member.shape[2] + 3)
    return size


def _unpacked(archive: zipfile.ZipFile, member: _Member, name: str) -> np.ndarray[Any, Any]:
    """Unpack one array; the reader stops at the promised size and checks the checksum."""
    size = 0
    with spool() as out:
        with archive.open(member.info) as file:
            while piece := file.read(PIECE):
                size += len(piece)
                with on_disk():
                    out.write(piece)
        if size != member.info.file_size:
            raise InvalidInput(f"unpacks to {size:,} of {member.info.file_size:,} bytes promised.", field=name)
        with on_disk():
            flat = held(out, member.dtype, member.start)
    return in_c_order(flat.reshape(member.shape, order="F" if member.fortran else "C"))
