"""The FastAPI application of the service: routes, limits of bodies, keys, and the OpenAPI description."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from d2vpr_hf import __version__
from d2vpr_hf.service import schemas
from d2vpr_hf.service.answers import Answer, Descriptor, Kind, Question, refusal
from d2vpr_hf.service.api_keys import ApiKeys
from d2vpr_hf.service.bodies import FORM, JSON, PHOTO_FIELD, BodyReader, Received
from d2vpr_hf.service.generations import Generation
from d2vpr_hf.service.limits import RefusedError
from d2vpr_hf.service.metrics import CONTENT_TYPE
from d2vpr_hf.service.photo_service import PhotoService
from d2vpr_hf.web.hosts import is_allowed_host, is_own_origin

logger = logging.getLogger(__name__)

KEY_HEADER = "X-API-Key"
_OPEN_PATHS = ("/health", "/ready", "/openapi.json", "/docs")  # served without a key
_OWN_PATHS = (*_OPEN_PATHS, "/localize", "/search", "/encode", "/metrics")
_REFUSALS = (401, 413, 415, 422, 503)  # statuses that are described
_DESCRIPTION = """Find where photos were taken, by the photos of an index.

Send photos as files of the field `photos` of a form, or in base64 in a JSON body. A photo that cannot be read has an `error` in
its result; if none of them can be read, the status is 422."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class _Route:
    """A route for questions about photos.

    Attributes:
        summary: Its title.
        description: Its description.
        form: Options of a form.
        body: JSON body.
        answer: JSON answer.
        examples: Examples of the JSON body.
    """

    summary: str
    description: str
    form: type[BaseModel]
    body: type[BaseModel]
    answer: type[BaseModel]
    examples: dict[str, dict[str, Any]]


_PHOTO = {"name": "query.jpg", "content": "/9j/4AAQSkZJRgABAQ..."}
_ROUTES: dict[Kind, _Route] = {
    "localize": _Route(
        "Estimate where photos were taken",
        "Returns a position, a radius and a confidence for each photo, or no match.",
        schemas.LocalizeOptions,
        schemas.LocalizeBody,
        schemas.LocalizeAnswer,
        {"photo": {"photos": [_PHOTO], "precision": 0.95}, "near": {"photos": [_PHOTO], "near": [48.8583, 2.2945, 500]}},
    ),
    "search": _Route(
        "Find the most similar photos",
        "Returns the most similar photos of the index for each photo.",
        schemas.SearchOptions,
        schemas.SearchBody,
        schemas.SearchAnswer,
        {"photo": {"photos": [_PHOTO], "top_k": 5}, "descriptor": {"descriptors": [[0.6, 0.8]], "top_k": 5}},
    ),
    "encode": _Route(
        "Compute descriptors",
        "Returns the descriptor of each photo.",
        schemas.EncodeOptions,
        schemas.EncodeBody,
        schemas.EncodeAnswer,
        {"photo": {"photos": [_PHOTO], "encoding": "base64"}},
    ),
}


def make_app(service: PhotoService, keys: ApiKeys, hosts: frozenset[str] = frozenset()) -> FastAPI:
    """Make the application.

    Args:
        service: Answers the requests.
        keys: Keys of clients.
        hosts: Names of this machine. Without keys, requests for other names, and from pages of other hosts, are refused: the
            page of a stranger could make its own name point to this machine.
    """
    app = FastAPI(title="D²-VPR", version=__version__, description=_DESCRIPTION, redoc_url=None)
    app.add_middleware(_Gate, service=service, keys=keys, hosts=hosts)
    app.add_exception_handler(RefusedError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _fail)
    for kind, route in _ROUTES.items():
        _add_question(app, service, kind, route)
    _add_states(app, service)
    if keys:
        _describe_key(app)
    return app


def _add_question(app: FastAPI, service: PhotoService, kind: Kind, route: _Route) -> None:
    """Add a route that answers questions about photos."""

    async def answer(request: Request) -> Response:
        return await _answer(service, kind, route, request)

    responses: dict[int | str, dict[str, Any]] = {status: {"model": schemas.ErrorAnswer} for status in _REFUSALS}
    responses[200] = {"model": route.answer}
    app.add_api_route(
        f"/{kind}",
        answer,
        methods=["POST"],
        summary=route.summary,
        description=route.description,
        operation_id=kind,
        response_class=JSONResponse,
        responses=responses,
        openapi_extra={"requestBody": {"required": True, "content": _contents(route)}},
    )


def _contents(route: _Route) -> dict[str, Any]:
    """Return the description of both forms of a body."""
    photos = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Photos, as files."}
    form = route.form.model_json_schema()
    form["properties"] = {PHOTO_FIELD: photos} | {
        name: value
        if "anyOf" not in value
        else {"type": "string", "description": f"{value['description']} Separated by commas."}
        for name, value in form["properties"].items()
    }
    form["required"] = [PHOTO_FIELD]
    body = route.body.model_json_schema()
    for name, definition in body.pop("$defs", {}).items():  # OpenAPI resolves no references inside a body's schema
        body = _inlined(body, f"#/$defs/{name}", definition)
    examples = {name: {"value": value} for name, value in route.examples.items()}
    return {FORM: {"schema": form}, JSON: {"schema": body, "examples": examples}}


def _inlined(value: Any, reference: str, definition: Any) -> Any:
    """Return a JSON schema with a definition in place of the references to it."""
    if isinstance(value, dict):
        if value.get("$ref") == reference:
            return definition
        return {name: _inlined(item, reference, definition) for name, item in value.items()}
    return [_inlined(item, reference, definition) for item in value] if isinstance(value, list) else value


def _add_states(app: FastAPI, service: PhotoService) -> None:
    """Add the routes for health, readiness and metrics."""

    @app.get("/health", summary="Whether the process answers", responses={200: {"model": schemas.StateAnswer}})
    async def health() -> JSONResponse:
        """Return 200 as long as the process runs."""
        return JSONResponse({"status": "ok"})

    @app.get(
        "/ready",
        summary="Whether requests should be sent here",
        responses={200: {"model": schemas.StateAnswer}, 503: {"model": schemas.StateAnswer}},
    )
    async def ready() -> JSONResponse:
        """Return 200 if the index and its model are loaded, and 503 while the service ends."""
        generation = service.generation
        name = None if generation.encoder is None else Path(generation.encoder.model_name or "embedded").name
        facts = {"photos": len(generation.index), "generation": generation.number, "model": name}
        return JSONResponse({"status": "ending" if service.draining else "ready"} | facts, 503 if service.draining else 200)

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(service.metrics_text(), media_type=CONTENT_TYPE)


def _describe_key(app: FastAPI) -> None:
    """Describe the key in the OpenAPI description."""
    make_description = app.openapi

    def openapi() -> dict[str, Any]:
        description = make_description()
        schemes = description.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["key"] = {"type": "apiKey", "in": "header", "name": KEY_HEADER}
        for path, operations in description["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in _OPEN_PATHS else [{"key": []}]
        return description

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend the description


async def _answer(service: PhotoService, kind: Kind, route: _Route, request: Request) -> Response:
    """Receive the photos or descriptors of a request, and answer it.

    Raises:
        RefusedError: If it breaks a limit, or is not in its form.
    """
    generation = service.generation
    try:
        async with asyncio.timeout(service.limits.seconds):
            with service.photo_folder() as folder:
                settings = generation.index.settings
                reader = BodyReader(service.limits, settings.descriptor_dim, settings.projection_dim is not None)
                received = await reader.read(request, route.form, route.body, folder, request.state.reservation)
                answers = await _ask(service, kind, generation, received)
    except TimeoutError:
        raise RefusedError(504, f"The request took longer than {service.limits.seconds:g} seconds.") from None
    facts: dict[str, Any] = {}
    if kind == "encode" and generation.encoder is not None:
        facts = {"descriptor_dim": generation.encoder.descriptor_dim, "fingerprint": generation.encoder.fingerprint}
    as_base64 = getattr(received.options, "encoding", "float") == "base64"
    results = await run_in_threadpool(lambda: [_to_dict(answer, as_base64) for answer in answers])
    status = 200 if any(answer.error is None for answer in answers) else 422
    return JSONResponse(facts | {"results": results}, status, {"X-Index-Generation": str(generation.number)})


async def _ask(service: PhotoService, kind: Kind, generation: Generation, received: Received[Any]) -> list[Answer]:
    """Return the answers to the photos or descriptors of a request, in order."""
    options = received.options.question_options()
    if received.photos and generation.encoder is None:
        raise RefusedError(422, "The index holds descriptors of another program. Send `descriptors` by its model, not photos.")
    if options.get("top_k", 0) > service.limits.top_k:
        raise RefusedError(422, f"top_k: expected at most {service.limits.top_k}, got {options['top_k']}.")
    if "places" in options:
        try:
            await run_in_threadpool(generation.allowed, options["places"])
        except ValueError as error:
            raise RefusedError(422, str(error)) from None
    problems = await asyncio.gather(*(service.find_problem(photo) for _, photo in received.photos))
    sources: list[tuple[str, Path | NDArray[np.float32]]] = [
        photo for photo, problem in zip(received.photos, problems, strict=True) if problem is None
    ]
    if received.descriptors is not None:
        sources = [(f"descriptor-{number}", row) for number, row in enumerate(received.descriptors, 1)]
    questions = [Question(generation, kind, name, source, **options) for name, source in sources]
    answers = iter(await service.ask(questions))
    if received.descriptors is not None:
        service.photos.add(len(questions), result="descriptor")
        return list(answers)
    service.photos.add(len(questions), result="answered")
    service.photos.add(len(problems) - len(questions), result="refused")
    return [
        next(answers) if problem is None else refusal(kind, name, problem)
        for (name, _), problem in zip(received.photos, problems, strict=True)
    ]


def _to_dict(answer: Answer, as_base64: bool) -> dict[str, Any]:
    """Return an answer as JSON values."""
    if not isinstance(answer, Descriptor):
        return answer.to_dict()
    values: Any = None
    if answer.values is not None:
        rows = np.ascontiguousarray(answer.values, "<f4")
        values = base64.b64encode(rows.tobytes()).decode() if as_base64 else rows.tolist()
    result = {"query": answer.query, "descriptor": values}
    return result if answer.error is None else result | {"error": answer.error}


async def _refuse(request: Request, error: Exception) -> Response:
    """Return the answer to a refused request."""
    if isinstance(error, RefusedError):
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return JSONResponse({"error": str(error)}, error.status, headers)
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    """Return the answer to a request that failed; the log has the error, which may name files of the server."""
    logger.error("A request for %s failed.", request.url.path, exc_info=error)
    return JSONResponse({"error": "The service failed to answer this request. Its log has the reason."}, 500)


class _Gate:
    """Lets requests in: checks host, key and size, reserves room, and counts and times the answers."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        service: PhotoService,
        keys: ApiKeys,
        hosts: frozenset[str],
    ) -> None:
        self._app, self._service = app, service
        self._keys, self._hosts = keys, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or an event of the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
                if self._service.draining:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        try:
            await self._handle(scope, receive, send_counted)
        finally:
            path = scope["path"] if scope["path"] in _OWN_PATHS else "other"
            self._service.requests.add(path=path, status=str(status))
            self._service.request_seconds.observe(time.monotonic() - start, path=path)
            self._service.answered += 1

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            self._check(request)
            if scope["method"] != "POST":
                await self._app(scope, receive, send)
                return
            with self._service.reserved() as reservation:
                scope.setdefault("state", {})["reservation"] = reservation

                async def release_and_send(message: Message) -> None:
                    reservation.release()  # a client that does not read its answer must not keep the others out
                    await send(message)

                await self._app(scope, self._limited(receive, reservation.add), release_and_send)
        except RefusedError as error:
            response = await _refuse(request, error)
            await response(scope, receive, send)

    def _check(self, request: Request) -> None:
        """Raise RefusedError for a wrong host, page or key, or a body that is too large by its own statement."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self._keys and not is_allowed_host(host, self._hosts):
            raise RefusedError(421, "This name of the host is not one of the service. Start it with `--allow-host NAME`.")
        if not self._keys and origin is not None and not is_own_origin(origin, host, self._hosts):
            raise RefusedError(403, "Pages of other hosts may not use a service without keys.")
        if request.url.path not in _OPEN_PATHS and not self._keys.accept(_key_of(request)):
            raise RefusedError(401, f"Send a key of this service in the header {KEY_HEADER}.")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._service.limits.request_bytes:
            raise self._too_large()

    def _limited(self, receive: Receive, reserve: Callable[[int, int], None]) -> Receive:
        """Return a function that receives the body of a request, and refuses one that is too large."""
        total = 0

        async def receive_limited() -> Message:
            nonlocal total
            message = await receive()
            size = len(message.get("body", b""))
            total += size
            if total > self._service.limits.request_bytes:
                raise self._too_large()
            reserve(0, size)
            return message

        return receive_limited

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"The body of a request may have at most {self._service.limits.request_bytes:,} bytes.")


def _key_of(request: Request) -> str | None:
    """Return the key that a request sends, also as a bearer token, as Prometheus sends it."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return request.headers.get(KEY_HEADER) or (token.strip() if scheme.lower() == "bearer" else None)
