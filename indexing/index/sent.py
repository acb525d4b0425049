"""Segments made on machines that share a bucket and no disk: whoever makes one leaves it there, whoever asked fetches.

They lie where a published index has them, so what was made before a build was killed is not made again, and what was
sent is not sent twice. `segment.json` goes last: with it a segment is whole.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from indexing.index.manifest import FileRecord, QuantiserRecord, SegmentRecord, home_of
from indexing.index.segment import PART, SegmentTask, build_segment, finished, put_in_place
from service.bucket import Bucket
from service.errors import Corrupt, NotFound
from service.store.contract import Store

_RECORD: Final = "segment.json"


def send_quantiser(home: Path, quantiser: QuantiserRecord, bucket: Bucket) -> None:
    """Have the centres of the lists in the bucket, for those who make segments.

    Args:
        home: The folder of the index.
        quantiser: What lies there.
        bucket: Where the dataset's indexes are published.

    Raises:
        ReadOnly, Unavailable: The bucket does not allow it, or cannot be reached.
    """
    at = bucket.at(home.name, quantiser.name)
    there = set(at.names())
    for record in quantiser.files:
        if record.key not in there:
            at.upload(home / quantiser.name / record.name, record.key)


def make_there(store: Store, task: SegmentTask, bucket: Bucket) -> SegmentRecord:
    """Make a segment in a folder of its own and leave it in the bucket, unless it is there.

    Args:
        store: Where the vectors are.
        task: What to make. Its sources lie on the disk of whoever asks: all blocks are read from the store.
        bucket: Where the dataset's indexes are published; the quantiser is there.

    Raises:
        Corrupt: A block or the quantiser cannot be read.
        ReadOnly, Unavailable: The bucket does not allow it, or cannot be reached.
    """
    at = bucket.at(home_of(Path(), task.window, task.level).name)
    done = _left(at.at(task.name), task)
    if done is not None:
        return done
    with tempfile.TemporaryDirectory(prefix="smalti-segment-") as scratch:
        home = Path(scratch)
        _download(at.at(task.quantiser.name), task.quantiser.files, home / task.quantiser.name)
        record = build_segment(store, replace(task, sources=()), home)
        for file in record.files:
            at.upload(home / task.name / file.name, f"{task.name}/{file.key}")
        at.upload(home / task.name / _RECORD, f"{task.name}/{_RECORD}")
    return record


def fetch_segment(home: Path, record: SegmentRecord, bucket: Bucket) -> None:
    """Have a segment that another machine made in the folder of the index, unless it is there.

    Raises:
        NotFound, Corrupt, Unavailable: It is not what was told of it, or cannot be fetched.
    """
    if finished(home / record.name) == record:
        return
    scratch = Path(tempfile.mkdtemp(prefix=PART, dir=home))
    try:
        _download(bucket.at(home.name, record.name), record.files, scratch)
        (scratch / _RECORD).write_text(json.dumps(record.document()))
        put_in_place(scratch, home / record.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _left(at: Bucket, task: SegmentTask) -> SegmentRecord | None:
    """What was left of a task, if all of it is there and is of the same blocks."""
    try:
        record = SegmentRecord.from_document(json.loads(at.get(_RECORD)))
    except (NotFound, ValueError, KeyError, TypeError):
        return None
    whole = {file.key for file in record.files}.issubset(at.names())
    return record if whole and record.blocks == task.blocks else None


def _download(at: Bucket, files: tuple[FileRecord, ...], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in files:
        at.download(file.key, folder / file.name)
        try:
            file.check(folder, whole=True)
        except Corrupt as error:
            raise Corrupt(f"{at.location}: {error.message}", remedy=error.remedy) from None
