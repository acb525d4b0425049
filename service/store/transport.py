"""Stores beyond a network, as zarr reads them: files of a web server, objects of an S3-compatible bucket.

Read only. Every request ends in time and is tried again a few times. What belongs together is never mixed: once an
object's validator (ETag, time, size) was seen, another one is an error, not bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlparse

import obstore
from obstore.exceptions import BaseError, NotModifiedError, NotSupportedError, PreconditionError
from obstore.store import HTTPStore
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import ObjectStore

from service.bucket import Access, trouble
from service.bucket.objects import s3_client
from service.errors import InvalidInput, Unavailable
from service.store.patient import PATIENCE

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

AT_ONCE: Final = 32
"""Requests under way at once to one store."""
_CONNECT: Final = timedelta(seconds=3)
_ANSWER: Final = timedelta(seconds=15)
_RETRIES: Final = 2
_RETRY_UNTIL: Final = timedelta(seconds=8)
_FIRST_PAUSE: Final = timedelta(milliseconds=100)


@dataclass(frozen=True)
class Root:
    """The root metadata as it was at one time."""

    body: bytes
    """Of `zarr.json`."""
    validator: str
    """What the transport says of it."""
    tag: str | None
    """Its ETag."""

    @property
    def generation(self) -> str:
        """A hash of both: what was read under another one is not to be mixed with what is read under this one."""
        return hashlib.sha256(self.body + b"\0" + self.validator.encode()).hexdigest()[:20]


class RemoteStore(ObjectStore[Any]):
    """The objects below one address.

    Args:
        location: `https://...`, `http://...` or `s3://bucket/prefix`.
        anonymous: Whether requests to S3 are sent unsigned.

    Raises:
        InvalidInput: It is no such address.
    """

    def __init__(self, location: str, anonymous: bool = False) -> None:
        super().__init__(_client(location, anonymous), read_only=True)
        self.location = location
        self.listed = location.startswith("s3://")
        self.validators: dict[str, str] = {}
        """Of each object that was read from: what it was then."""
        self.sizes: dict[str, int] = {}
        """Bytes of each object that was read from."""
        self.changed: dict[str, str] = {}
        """Objects found to be others than they were, with what they were: it tells each change from the next."""
        self._turn = _Turns(AT_ONCE)

    @property
    def supports_listing(self) -> bool:
        """Whether it can be asked what there is: a web server cannot."""
        return self.listed

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of an object, or a part of them; None where there is no such object.

        Raises:
            Unavailable: The transport failed, or the object is another one than it was when it was read first.
        """
        found = await self.fetch(key, byte_range)
        return None if found is None else prototype.buffer.from_bytes(found)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several at once; see `get`."""
        return list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    async def fetch(self, key: str, span: ByteRequest | None = None) -> bytes | None:
        """As `get`, as plain bytes."""
        options: GetOptions = {} if span is None else {"range": _range(span)}
        tag = self.validators.get(key, "").partition(" ")[0]
        if _is_strong(tag):
            options["if_match"] = tag
        try:
            async with asyncio.timeout(PATIENCE), self._turn():
                answer = await obstore.get_async(self.store, key, options=options)
                body = bytes(await answer.bytes_async())
        except PreconditionError:
            raise self._other(key) from None
        except Exception as error:
            self._require_absent(key, error)
            return None
        self._note(key, answer.meta, span, len(body))
        return body

    def _note(self, key: str, meta: ObjectMeta, span: ByteRequest | None, length: int) -> None:
        validator = validator_of(meta)
        if self.validators.setdefault(key, validator) != validator:
            raise self._other(key)
        self.sizes[key] = meta["size"]
        if length != _length(span, meta["size"]):
            raise Unavailable(f"{self.location}: {key} came back cut short.", remedy="Repeat.")

    def _other(self, key: str) -> Unavailable:
        self.changed[key] = self.validators[key]
        return Unavailable(f"{self.location}: {key} changed while it was being read.", remedy="Repeat in a minute.")

    def _require_absent(self, key: str, error: Exception) -> None:
        """That an object is not there is an answer; every other trouble is an error."""
        if not isinstance(error, FileNotFoundError) or "NoSuchBucket" in str(error):
            raise self._trouble(key, error) from error

    def _trouble(self, key: str, error: BaseException) -> BaseException:
        if isinstance(error, NotSupportedError):
            return Unavailable(
                f"{self.location}: the server does not answer requests for parts of a file (Range).",
                remedy="Serve it by one that does, or copy the store to a local folder.",
            )
        if isinstance(error, BaseError | OSError):
            return trouble(f"{self.location}: {key}", str(error))
        return error

    async def exists(self, key: str) -> bool:
        """Whether there is such an object. Raises as `get` does."""
        return await self.head(key) is not None

    async def head(self, key: str) -> str | None:
        """The validator of an object as it is now; None where there is none. Raises as `get` does."""
        try:
            async with asyncio.timeout(PATIENCE), self._turn():
                meta = await obstore.head_async(self.store, key)
        except Exception as error:
            self._require_absent(key, error)
            return None
        self.sizes[key] = meta["size"]
        return validator_of(meta)

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Keys that begin with a prefix. Raises as `get` does."""
        return (path async for path, _ in self.listing(prefix))

    async def listing(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        """(key, validator) of every object whose key begins with a prefix. Raises as `get` does."""
        try:
            async for batch in obstore.list(self.store, prefix=prefix):
                for meta in batch:
                    yield meta["path"], validator_of(meta)
        except (BaseError, OSError) as error:
            raise self._trouble(prefix, error) from error

    def root(self, known: Root | None = None) -> Root | None:
        """The root metadata; None where it is as `known` has it.

        Raises:
            FileNotFoundError: There is none.
            Unavailable: The transport failed.
        """
        return sync(self._root(known))

    async def _root(self, known: Root | None) -> Root | None:
        options: GetOptions = {"if_none_match": known.tag} if known and known.tag else {}
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await obstore.get_async(self.store, "zarr.json", options=options)
                body = bytes(await answer.bytes_async())
        except NotModifiedError:
            return None
        except Exception as error:
            self._require_absent("zarr.json", error)
            raise FileNotFoundError(f"{self.location}/zarr.json") from error
        now = Root(body, validator_of(answer.meta), answer.meta["e_tag"])
        return None if known == now else now


class _Turns:
    """So many at once. Made anew for each loop, as asyncio's own has to be."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: asyncio.Semaphore | None = None

    def __call__(self) -> asyncio.Semaphore:
        if self._held is None:
            self._held = asyncio.Semaphore(self._count)
        return self._held


def validator_of(meta: ObjectMeta) -> str:
    """What changes when an object does: its ETag, its time and its size, as far as the server tells."""
    return f"{meta['e_tag'] or '-'} {meta['last_modified'].timestamp():.0f} {meta['size']}"


def _is_strong(tag: str) -> bool:
    """Whether a tag may stand in If-Match: a weak one never matches."""
    return tag not in ("", "-") and not tag.startswith("W/")


def _range(span: ByteRequest) -> Any:
    if isinstance(span, RangeByteRequest):
        return (span.start, span.end)
    if isinstance(span, SuffixByteRequest):
        return {"suffix": span.suffix}
    return {"offset": span.offset}


def _length(span: ByteRequest | None, size: int) -> int:
    """Bytes that an answer to a request must have."""
    if span is None:
        return size
    if isinstance(span, RangeByteRequest):
        return max(min(span.end, size) - span.start, 0)
    if isinstance(span, OffsetByteRequest):
        return max(size - span.offset, 0)
    return min(span.suffix, size)


def _client(location: str, anonymous: bool) -> Any:
    url = urlparse(location)
    if url.scheme not in _SCHEMES or not url.hostname or url.query or url.fragment or url.username or url.password:
        raise InvalidInput(
            f"{url.scheme}://{url.hostname or ''} is no address of a store.",
            field="location",
            remedy="Write https://server/path, http://server/path or s3://bucket/prefix, without a user or a query.",
        )
    return _SCHEMES[url.scheme](location, anonymous)


def _http(location: str, anonymous: bool) -> HTTPStore:  # noqa: ARG001 - a web server is always asked so
    return HTTPStore(
        location,
        client_options={
            "allow_http": location.startswith("http://"),
            "connect_timeout": _CONNECT,
            "timeout": _ANSWER,
            "pool_max_idle_per_host": str(AT_ONCE),
            "user_agent": "smalti",
        },
        retry_config={
            "max_retries": _RETRIES,
            "retry_timeout": _RETRY_UNTIL,
            "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": timedelta(seconds=1)},
        },
    )


def _s3(location: str, anonymous: bool) -> Any:
    url = urlparse(location)
    return s3_client(url.netloc, Access.to(url.netloc, anonymous), _ANSWER, prefix=url.path.strip("/"))


_SCHEMES: Final[dict[str, Callable[[str, bool], Any]]] = {"https": _http, "http": _http, "s3": _s3}
