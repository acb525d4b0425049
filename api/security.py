"""Who may do what: API keys with scopes, loopback without keys, the Host and Origin headers."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from api.problems import problem
from api.settings import KEY_HEADER, ApiKey, Network, Scope, Settings
from api.state import get_state
from service.errors import Forbidden, SmaltiError, Unauthorized

KEY_DIGITS: Final = 12
"""Hex digits of a key's SHA-256 that stand for it among jobs."""
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_LARGE: Final = ("/embed", "/shards/candidates", "/shards/best")
"""Where a body may have `body_bytes`."""
_PROXY_HEADERS: Final = ("forwarded", "x-forwarded-for", "x-real-ip")


def require(scope: Scope) -> Callable[[Request], Coroutine[Any, Any, None]]:
    """A route dependency that lets a request through only if it may do `scope`. Needs no thread.

    With keys configured, the request needs one that holds the scope (or `admin`). Without keys, it must come from
    this machine directly, not through a proxy, and not from a page of another origin.
    """

    async def check(request: Request) -> None:
        check_scope(request, scope)

    return check


def check_scope(request: Request, scope: Scope) -> None:
    """What `require` does, at once.

    Raises:
        Unauthorized: It needs a key.
        Forbidden: It may not.
    """
    settings = get_state(request).settings
    if scope == "read" and settings.public_read:
        return
    if settings.api_keys:
        _check_key(request.headers.get(KEY_HEADER), scope, settings.api_keys)
    elif scope != "read" and not (_is_local(request, settings.local_networks) and _is_same_origin(request)):
        raise Forbidden(
            f"{request.method} {request.url.path} answers only to this machine while no API keys are configured.",
            remedy="Set SMALTI_API_KEYS and send one in X-API-Key.",
        )


def may_unasked(request: Request, scope: Scope) -> bool:
    """Whether a request may do what it did not ask for: as `require`, and no page of another server made a browser ask.

    A picture in such a page comes without an Origin, but browsers say where it stands (Fetch Metadata).
    """
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    try:
        check_scope(request, scope)
    except SmaltiError:
        return False
    return True


def _check_key(key: str | None, scope: Scope, keys: tuple[ApiKey, ...]) -> None:
    if not key:
        raise Unauthorized("an API key is needed here.", remedy=f"Send it in {KEY_HEADER}.")
    held = [known.scopes for known in keys if known.matches(key)]
    if not held:
        raise Unauthorized("this API key is not known.")
    if not any({scope, "admin"} & scopes for scopes in held):
        raise Forbidden(f"this API key does not hold the scope {scope!r}.")


def asker(request: Request) -> str:
    """Whom a request counts for: the first digits of the SHA-256 of its key, never the key; "" without a known one."""
    key = request.headers.get(KEY_HEADER)
    known = get_state(request).settings.api_keys if key else ()
    return next((one.digest[:KEY_DIGITS] for one in known if one.matches(key or "")), "")


def _is_local(request: Request, networks: tuple[Network, ...]) -> bool:
    if any(name in request.headers for name in _PROXY_HEADERS) or request.client is None:
        return False
    try:
        caller = ipaddress.ip_address(request.client.host)
    except ValueError:
        return False
    return caller.is_loopback or any(caller in network for network in networks)


def _is_same_origin(request: Request) -> bool:
    """A browser names the page's origin when it writes; a page of another server, or port, must not write here."""
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def is_allowed_host(netloc: str, settings: Settings) -> bool:
    """Whether `host[:port]` names this server: a guard against DNS rebinding."""
    try:
        name = urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return False
    return name in _LOOPBACK_NAMES or name in settings.allowed_hosts or "*" in settings.allowed_hosts


def _answers_any_name(scope: AsgiScope, settings: Settings) -> bool:
    """Whether this request may name the server as it likes: kubelets and Prometheus ask by a pod's address.

    The name is checked against DNS rebinding, where a page makes a browser near the server its messenger. These
    answers give such a page nothing: /livez is constant, /readyz is a bare yes or no under another name, and /metrics
    needs a key that no page holds, or was declared public. Where only being on this machine opens /metrics, its
    name is checked too.
    """
    if scope["method"] not in ("GET", "HEAD"):
        return False
    guarded = settings.public_metrics or bool(settings.api_keys)
    return scope["path"] in ("/livez", "/readyz") or (scope["path"] == "/metrics" and guarded)


async def require_metrics(request: Request) -> None:
    """A route dependency: `admin`, unless metrics are declared public. Needs no thread."""
    if not get_state(request).settings.public_metrics:
        check_scope(request, "admin")


async def require_peer(request: Request) -> None:
    """A route dependency: what servers of one fleet ask each other is nobody else's, even where reading is public.

    With keys configured, `read`; without, this machine or a network declared local.
    """
    settings = get_state(request).settings
    if settings.api_keys:
        _check_key(request.headers.get(KEY_HEADER), "read", settings.api_keys)
    else:
        check_scope(request, "embed")


class Gate:
    """What is refused before anything looks at it: another server's name, or a body that says it is too large.

    Starlette refuses both in plain text, and knows no ::1; here they are problem+json like every other error. A body
    that hides its size is cut off by the framework's own limit.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 403 or 413."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: AsgiScope) -> JSONResponse | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, length = headers.get(b"host", ""), headers.get(b"content-length", "0")
        if not (is_allowed_host(host, self.settings) or _answers_any_name(scope, self.settings)):
            remedy = "Add the name to SMALTI_ALLOWED_HOSTS."
            return problem(403, "forbidden", f"this server does not answer to {host[:80]!r}.", "Host", remedy)
        limits = self.settings.limits
        most = limits.body_bytes if scope["path"] in _LARGE else limits.question_bytes
        if length.isdigit() and int(length[:19]) > most:
            return problem(413, "limit-exceeded", f"the body is over {most:,} bytes.", "body", "Send less at once.")
        return None
