"""Objects as files in a folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import IO, Final

from service.bucket.contract import checked_key, joined
from service.errors import NotFound, ReadOnly, Unavailable

_RACES: Final = 50


class FolderBucket:
    """A folder: keys are paths below it."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self.location = str(self._folder)

    def at(self, *names: str) -> FolderBucket:
        """See `Bucket.at`."""
        return FolderBucket(self._folder / joined(names))

    def get(self, key: str) -> bytes:
        """See `Bucket.get`."""
        with self._reading(key):
            return self._path(key).read_bytes()

    def put(self, key: str, body: bytes) -> None:
        """See `Bucket.put`."""
        self._write(key, lambda file: file.write(body))

    def put_new(self, key: str, body: bytes) -> bool:
        """See `Bucket.put_new`."""
        return self._write(key, lambda file: file.write(body), new=True)

    def delete(self, key: str) -> None:
        """See `Bucket.delete`."""
        with self._writing():
            path = self._path(key)
            path.unlink(missing_ok=True)
            for folder in path.parents[: key.count("/")]:  # a bucket has no empty folders
                try:
                    folder.rmdir()
                except OSError:
                    return

    def names(self, under: str = "") -> list[str]:
        """See `Bucket.names`."""
        return sorted(path.name for path in self._below(under) if path.is_file())

    def folders(self, under: str = "") -> list[str]:
        """See `Bucket.folders`."""
        return sorted(path.name for path in self._below(under) if path.is_dir() and any(path.iterdir()))

    def upload(self, path: Path, key: str) -> None:
        """See `Bucket.upload`."""
        with path.open("rb") as source:
            self._write(key, lambda file: shutil.copyfileobj(source, file))

    def download(self, key: str, path: Path) -> None:
        """See `Bucket.download`."""
        with self._reading(key), self._path(key).open("rb") as source, path.open("xb") as file:
            shutil.copyfileobj(source, file)

    def _path(self, key: str) -> Path:
        return self._folder / checked_key(key)

    def _below(self, under: str) -> Iterator[Path]:
        folder = self._path(under) if under else self._folder
        try:
            yield from (path for path in folder.iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise Unavailable(f"{folder} cannot be read: {error.strerror}.") from error

    def _write(self, key: str, fill: Callable[[IO[bytes]], object], *, new: bool = False) -> bool:
        """Write a file beside the object's path and move it there once it is whole and on disk."""
        path = self._path(key)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        with self._writing():
            try:
                with _opened(temporary) as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                if new:
                    return _link(temporary, path)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return True

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"{self.location} holds no {key}.", field="key") from None
        except OSError as error:
            raise Unavailable(f"{self.location}: {key} cannot be read: {error.strerror}.") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise ReadOnly(f"{self.location} cannot be written to: {error.strerror}.") from error
        except OSError as error:
            raise Unavailable(f"{self.location}: writing failed, nothing was changed: {error.strerror}.") from error


def _opened(temporary: Path) -> IO[bytes]:
    """A new file, in a folder that may have to be made and that others may be removing for it is empty."""
    for _ in range(_RACES):
        with suppress(FileNotFoundError, FileExistsError):  # mkdir says either
            temporary.parent.mkdir(parents=True, exist_ok=True)
            return temporary.open("xb")
    raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(temporary))


def _link(temporary: Path, path: Path) -> bool:
    """Give a whole file its name, unless that is taken; whether it was not."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # some network and removable disks have no hard links: the next best
        if path.exists():
            return False
        temporary.replace(path)
    return True
