"""The server's addresses: /segment, /health and /metrics."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from .fields import NAMES, Fields, checked, fields_of_json
from .limits import Limits, Refusal
from .metrics import TYPE
from .outputs import Output
from .service import Service

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger("hyperclip.serve")
FORM, JSON = "multipart/form-data", "application/json"
DRAINED = 4
"""A body of up to so many times the limit is read to its end and dropped, since clients that are
refused before they have sent all of it see a broken connection instead of the reason.
"""
PARSERS = 2
"""Threads that read requests while the model works."""


class Pages:
    """What a service says to HTTP requests; every answer but labels and metrics is JSON.

    Args:
        about: what /health says of the model. key: that requests have to bring; "" for none.
    """

    def __init__(self, service: Service, about: dict[str, Any], key: str = "") -> None:
        self.service, self.about, self.key = service, about, key
        self.limits: Limits = service.limits
        self._busy = 0
        self._pool = ThreadPoolExecutor(PARSERS, "hyperclip-requests")
        gauge = self.service.metrics.gauge
        gauge("requests_in_progress", lambda: self._busy, "requests that have no answer yet")

    def app(self) -> Starlette:
        """The application for a server of ASGI; the service ends with it."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        routes = [
            Route("/segment", self.segment, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]
        handlers: dict[Any, Any] = {HTTPException: self.no_such_page}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self.service.close)
        self._pool.shutdown()

    async def health(self, request: Request) -> Response:
        """Whether the service answers."""
        alive = self.service.batches.alive
        about = {"status": "ok" if alive else "stopping", **self.about}
        return _json_response(about, 200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        """Counters for Prometheus."""
        from starlette.responses import Response

        try:
            self._check_key(request)
        except Refusal as refusal:
            return self._refused(refusal)
        return Response(self.service.metrics.text(), headers={"Content-Type": TYPE})

    async def no_such_page(self, request: Request, error: Exception) -> Response:
        """What other addresses and methods get."""
        pages = "POST /segment, GET /health, GET /metrics"
        wrong = getattr(error, "status_code", 404) == 405
        got = f"got {request.method} {request.url.path[:80]}, expected {pages}"
        return self._refused(Refusal("bad_method" if wrong else "not_found", f"request: {got}"))

    async def segment(self, request: Request) -> Response:
        """Answer one request, whatever it is."""
        from starlette.responses import Response

        started, metrics = time.perf_counter(), self.service.metrics
        self._busy += 1
        try:
            output = await self._answer(request)
            headers = {"X-Image-Hash": output.image_hash, "Content-Type": output.type}
            response = Response(output.content, headers=headers)
        except Refusal as refusal:
            response = self._refused(refusal)
        except Exception:  # a bug: its traceback is for the log alone
            logger.exception("a request failed")
            message = "the server failed, which is not the request's fault; its log says why"
            response = self._refused(Refusal("internal", message))
        finally:
            self._busy -= 1
        metrics.count("requests_total", str(response.status_code))
        metrics.observe("request_seconds", time.perf_counter() - started)
        return response

    async def _answer(self, request: Request) -> Output:
        self._check_key(request)
        if self._busy > self.limits.waiting:
            got = f"{self.limits.waiting} requests are in progress"
            raise Refusal("busy", f"the server is busy: {got}. Send it again in a moment")
        read = self._reader(request)
        try:
            async with asyncio.timeout(self.limits.seconds):
                body = await read_body(request, self.limits.body)
        except TimeoutError:
            got = f"the body took more than {self.limits.seconds:g} s"
            raise Refusal("slow_upload", f"request: {got}. Send a smaller image") from None
        try:
            async with asyncio.timeout(self.limits.seconds):
                submitted = await self._submit(read(body))
                del body  # it may wait for a while
                return await asyncio.wrap_future(submitted)
        except TimeoutError:
            got = f"no answer within {self.limits.seconds:g} s, since others were before it"
            raise Refusal("timeout", f"the server is busy: {got}. Send it again later") from None

    async def _submit(self, reading: Awaitable[Fields]) -> Future[Output]:
        fields = await reading
        return await self._in_pool(lambda: self.service.submit(fields))

    def _reader(self, request: Request) -> Callable[[bytes], Awaitable[Fields]]:
        """What reads a body of this type; Refusal for another type, or a compressed one."""
        got = request.headers.get("content-type", "")
        kind = got.partition(";")[0].strip().lower()
        if coding := request.headers.get("content-encoding", ""):
            raise Refusal("bad_type", f"content-encoding: got {coding[:40]!r}, expected none")
        if kind == JSON:
            return lambda body: self._in_pool(lambda: fields_of_json(body, self.limits))
        if kind == FORM:
            return lambda body: self._form(request, body)
        expected = f"expected {FORM} (curl -F image=@photo.jpg -F vocabulary='dog; road') or {JSON}"
        raise Refusal("bad_type", f"content-type: got {got[:80]!r}, {expected}")

    async def _form(self, request: Request, body: bytes) -> Fields:
        content = await read_form(request, body, self.limits)
        return await self._in_pool(lambda: checked(content, self.limits, form=True))

    async def _in_pool(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {self.key}"
        if self.key and not hmac.compare_digest(given.encode("latin-1"), wanted.encode()):
            got = "another key" if given else "no key"
            raise Refusal("unauthorized", f"got {got}, expected 'Authorization: Bearer KEY'")

    def _refused(self, refusal: Refusal) -> Response:
        self.service.metrics.count("errors_total", refusal.kind)
        return _json_response(refusal.as_json(), refusal.status)


def _json_response(content: dict[str, Any], status: int) -> Response:
    from starlette.responses import JSONResponse

    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}
    return JSONResponse(content, status, headers.get(status))


async def read_body(request: Request, most: int) -> bytes:
    """The whole body; Refusal for one of more bytes than ``most``."""
    from starlette.requests import ClientDisconnect

    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= most:
                parts.append(part)
            elif size > DRAINED * most:
                break
    except ClientDisconnect:
        raise Refusal("bad_request", "body: the connection ended before it") from None
    if size > most:
        got = f"got more than {most / 2**20:.1f} MB"
        raise Refusal("too_large", f"body: {got}. Send a smaller image, or fewer names")
    if not size:
        raise Refusal("bad_request", f"body: got nothing, expected fields of {list(NAMES)}")
    return b"".join(parts)


async def read_form(request: Request, body: bytes, limits: Limits) -> dict[str, Any]:
    """The parts of a form by name: texts, and the bytes of its file; Refusal for what is no form,
    or a name that is there twice.
    """
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartParser

    async def whole() -> Any:
        yield body

    most = max(4 * limits.text, 2**16)
    parser = MultiPartParser(
        request.headers, whole(), max_files=2, max_fields=2 * len(NAMES), max_part_size=most
    )
    # what fits into the limits stays in memory: nothing of it is written to a disk
    parser.spool_max_size = limits.body
    try:
        form = await parser.parse()
    except Exception as error:  # of several kinds, by what in the body is wrong
        reason = " ".join(str(getattr(error, "message", error)).split())[:200]
        raise Refusal("bad_request", f"body: no {FORM} ({reason})") from error
    content: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in content:
            raise Refusal("bad_request", f"field {name[:80]!r}: there twice, expected one")
        content[name] = await value.read() if isinstance(value, UploadFile) else value
    await form.close()
    for name in content.keys() - {"image"}:
        if isinstance(content[name], bytes):
            raise Refusal("bad_request", f"field {name[:80]!r}: got a file, expected a text")
    return content
