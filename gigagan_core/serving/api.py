"""The JSON API: FastAPI, with OpenAPI at /openapi.json."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from gigagan_core import __version__
from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import NotFinite
from gigagan_core.inference.outputs import png
from gigagan_core.serving.backend import ReplicasLost
from gigagan_core.serving.limits import BodyLimit
from gigagan_core.serving.metrics import CONTENT_TYPE, Measured
from gigagan_core.serving.schema import (
    Failure,
    GenerateRequest,
    Pictures,
    UpsampleRequest,
    UpsampleSettings,
    as_prompt,
    sentence_of,
)
from gigagan_core.serving.studio import Overloaded, Sent, Studio, TookTooLong
from gigagan_core.text import plain

_log = logging.getLogger("gigagan.serve")
_ENDPOINTS = ("/v1/generate", "/v1/upsample")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
_NO_OBJECT = {
    "/v1/generate": 'the body is no JSON object; send an object such as {"prompts": ["a red apple"]}',
    "/v1/upsample": "the body is no JSON object; send an object with `image` in base64",
}
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": what}
    for status, what in {
        400: "The body is no JSON, no form, or no picture.",
        406: "image/png is asked for, and the answer has several pictures.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "The body is of another kind, or does not say of which.",
        422: "The request does not fit the model or the limits.",
        500: "The server or its model failed; its log says why.",
        503: "Too many requests wait; see Retry-After.",
        504: "Not answered in time.",
    }.items()
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Pictures,
        "description": "As JSON; a single picture as image/png where Accept asks for that.",
        "content": {"image/png": {}},
    },
    **_FAILURES,
}


def create_app(studio: Studio) -> FastAPI:
    """The application, without the page. `studio` makes what is asked for."""
    app = FastAPI(
        title="GigaGAN",
        version=__version__,
        description="Pictures from prompts, and anybody's pictures enlarged. Limits: "
        + ", ".join(f"{name} {value:g}" for name, value in studio.limits.model_dump().items()),
        # The pages of the documentation ask a content network for their scripts; the description alone does not.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, limits=studio.limits)
    app.add_middleware(Measured, metrics=studio.metrics, paths=_ENDPOINTS)
    _add_handlers(app, studio)
    _add_pictures(app, studio)
    _add_state(app, studio)
    return app


# ---- pictures ---------------------------------------------------------------------------------------


def _add_pictures(app: FastAPI, studio: Studio) -> None:
    @app.post("/v1/generate", response_model=None, responses=_ANSWERS, tags=["pictures"])
    async def generate(request: Request, wanted: Annotated[GenerateRequest, Body()]) -> Response:
        """Pictures of prompts, or of a mixture of two. Requests that meet are made in one forward pass."""
        jobs, made = await studio.generate(wanted)
        cut = dict.fromkeys(prompt for one in made for prompt in one.cut)
        pictures = [(one.image, studio.record(job)) for job, one in zip(jobs, made)]
        return await _answer(request, pictures, list(cut))

    @app.post(
        "/v1/upsample", response_model=None, responses=_ANSWERS, tags=["pictures"], openapi_extra=_BODIES
    )
    async def upsample(request: Request) -> Response:
        """A picture, larger: sent as a form with a file `image`, or in JSON as base64."""
        made = await studio.upsample(lambda: _sent_picture(request, studio.backend.facts["upsampler"]))
        return await _answer(request, [(made.large, made.record)], [])


_BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": UpsampleRequest.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        **UpsampleSettings.model_json_schema()["properties"],
                    },
                }
            },
        },
    }
}


async def _sent_picture(request: Request, upsampler: dict[str, Any]) -> Sent:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, upsampler)
    if kind != "application/json":
        raise HTTPException(
            415, "send the picture as multipart/form-data with a file `image`, or as application/json"
        )
    try:
        values = await request.json()
    except (ValueError, RecursionError):
        raise HTTPException(400, _NO_OBJECT[request.url.path]) from None
    wanted = UpsampleRequest.model_validate(values)
    return Sent(UpsampleSettings(**wanted.model_dump(exclude={"image"})), wanted.body())


async def _from_form(request: Request, upsampler: dict[str, Any]) -> Sent:
    async with request.form(max_files=1, max_fields=len(UpsampleSettings.model_fields)) as form:
        values = dict(form)
        file = values.pop("image", None)
        if not hasattr(file, "read"):
            raise HTTPException(422, "the form has no file `image`; send the picture as one")
        if upsampler["conditioning"] == "class" and isinstance(values.get("prompt"), str):
            values["prompt"] = as_prompt(upsampler, values["prompt"])  # all that a form holds is text
        return Sent(UpsampleSettings.model_validate(values), await file.read())


async def _answer(
    request: Request, pictures: list[tuple[Image.Image, dict[str, Any]]], cut: list[Any]
) -> Response:
    """JSON, or the picture itself where the client asks for one."""
    if not _wants_png(request):
        return Response(await asyncio.to_thread(_as_json, pictures, cut), media_type="application/json")
    if len(pictures) > 1:
        raise HTTPException(
            406, f"image/png holds one picture, and there are {len(pictures)}; accept application/json"
        )
    return Response(await asyncio.to_thread(png, *pictures[0]), media_type="image/png")


def _wants_png(request: Request) -> bool:
    kinds = [kind.partition(";")[0].strip() for kind in request.headers.get("accept", "").lower().split(",")]
    return "image/png" in kinds and "application/json" not in kinds


def _as_json(pictures: list[tuple[Image.Image, dict[str, Any]]], cut: list[Any]) -> bytes:
    shown = [
        {
            "png": base64.b64encode(png(image, record)).decode("ascii"),
            "width": image.width,
            "height": image.height,
            "record": record,
        }
        for image, record in pictures
    ]
    return JSONResponse({"pictures": shown, "cut_prompts": cut}).body


# ---- the server's state -----------------------------------------------------------------------------


def _add_state(app: FastAPI, studio: Studio) -> None:
    def read(path: str, **options: Any) -> Callable[[Any], Any]:
        """GET and HEAD, which is how load balancers look."""

        def add(answer: Any) -> Any:
            app.head(path, include_in_schema=False)(answer)
            return app.get(path, tags=["state"], **options)(answer)

        return add

    @read("/healthz")
    async def healthz() -> dict[str, str]:
        """The front lives."""
        return {"status": "ok"}

    @read("/readyz", responses={503: {"model": Failure}})
    async def readyz() -> JSONResponse:
        """Whether a replica serves."""
        ready = await studio.backend.ready_replicas()
        if not ready:
            return _failure(503, "no replica serves at the moment; come back in some seconds", studio)
        return JSONResponse({"status": "ok", "replicas": ready})

    @read("/metrics")
    async def metrics() -> Response:
        """Prometheus's text format."""
        studio.metrics.replicas.set(await studio.backend.ready_replicas())
        return Response(studio.metrics.text(), media_type=CONTENT_TYPE)

    @read("/v1/model")
    async def model() -> dict[str, Any]:
        """What is served: sizes, sums, the model card, the terms of what it was made of, the limits."""
        return {**studio.backend.facts, "limits": studio.limits.model_dump()}

    @app.api_route("/v1/{rest:path}", methods=_METHODS, include_in_schema=False)
    async def nothing(request: Request, rest: str) -> None:
        # The page's routes below / would answer otherwise.
        routes = [route for route in app.routes if getattr(route, "path", None) == request.url.path]
        if routes:
            allowed = {method for route in routes for method in route.methods}
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        raise HTTPException(404, f"there is no /v1/{plain(rest, 80)}; /openapi.json lists what there is")


# ---- failures: one sentence, never a traceback ------------------------------------------------------


def _add_handlers(app: FastAPI, studio: Studio) -> None:
    def answers(kind: type[Exception], status: int) -> None:
        @app.exception_handler(kind)
        async def handler(request: Request, error: Exception) -> JSONResponse:
            if status == 500:
                _log.error("%s %s failed: %s", request.method, request.url.path, error)
            return _failure(status, plain(error, 1000), studio)

    answers(GigaganError, 422)
    answers(NotFinite, 500)  # a GigaganError too, but no fault of who asked
    answers(Overloaded, 503)
    answers(TookTooLong, 504)

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def invalid(request: Request, error: RequestValidationError | ValidationError) -> JSONResponse:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            return _unread(request, 400, studio)
        if problem["loc"] in ((), ("body",)) and problem["type"] in _NO_OBJECTS:
            return _unread(request, 422, studio)
        return _failure(422, sentence_of(problem), studio)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            return _another_method(request, error, studio)
        if error.detail == _FASTAPI_ON_BODIES:
            return _unread(request, 400, studio)
        return _failure(error.status_code, plain(error.detail, 1000), studio)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        lost = isinstance(error, ReplicasLost)
        _log.error("%s %s failed", request.method, request.url.path, exc_info=None if lost else error)
        sentence = plain(error) if lost else "the server failed on this request; its log says why"
        return _failure(500, sentence, studio)


def _failure(status: int, sentence: str, studio: Studio) -> JSONResponse:
    headers = {"retry-after": str(studio.limits.retry_after_seconds)} if status == 503 else None
    return JSONResponse({"error": sentence}, status, headers)


_NO_OBJECTS = ("missing", "model_attributes_type", "model_type")
"""Pydantic's words for a body that is no object."""

_FASTAPI_ON_BODIES = "There was an error parsing the body"


def _unread(request: Request, status: int, studio: Studio) -> JSONResponse:
    """Of a body that is no JSON object, or does not say that it is one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        said = f"is of type {plain(kind, 80)}" if kind else "has no content-type"
        return _failure(415, f"the body {said}; send JSON, with content-type: application/json", studio)
    return _failure(status, _NO_OBJECT[request.url.path], studio)


def _another_method(request: Request, error: HTTPException, studio: Studio) -> JSONResponse:
    allowed = sorted((error.headers or {}).get("Allow", "GET").split(", "))
    path = plain(request.url.path, 80)
    answer = _failure(
        405, f"{request.method} {path} is not taken; send {' or '.join(allowed)} {path}", studio
    )
    answer.headers["allow"] = ", ".join(allowed)
    return answer
