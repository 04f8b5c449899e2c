"""The HTTP endpoints."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .errors import BodyTooLarge, EngineError, InvalidRequest, ModelNotFound
from .generation import Generation, limits_of, sampling_of
from .responses import DONE, Answer, ChatAnswer, CompletionAnswer, event
from .schemas import ChatRequest, CompletionRequest, GenerationRequest, StreamOptions, parse
from .sequence import Delta, Sequence
from .service import ModelService, ServiceState

MAX_BODY_BYTES = 16 * 1024 * 1024
CLIENT_CLOSED = 499  # nobody reads it; nginx's number for a client that went away
T = TypeVar("T")


def create_app(state: ServiceState) -> Starlette:
    """The application; `state` says whether a model is there yet."""

    async def health(_: Request) -> Response:
        state.service()
        return JSONResponse({"status": "ok"})

    async def metrics(_: Request) -> Response:
        return Response(state.metrics.render(), media_type="text/plain; version=0.0.4")

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [state.service().description()]})

    async def chat(request: Request) -> Response:
        service = state.service()
        body = parse(await _bounded_body(request), ChatRequest)
        _check_model(body, service)
        messages = [message.for_template() for message in body.messages]
        prompt = await asyncio.to_thread(service.prompts.chat, messages)
        answer = ChatAnswer(id=_answer_id("chatcmpl", request), model=service.facts.name, prompt_tokens=len(prompt))
        return await _generate(request, service, body, prompt, answer)

    async def completions(request: Request) -> Response:
        service = state.service()
        body = parse(await _bounded_body(request), CompletionRequest)
        _check_model(body, service)
        given = body.single_prompt()
        prompt = await asyncio.to_thread(service.prompts.completion, given) if isinstance(given, str) else given
        answer = CompletionAnswer(id=_answer_id("cmpl", request), model=service.facts.name, prompt_tokens=len(prompt))
        return await _generate(request, service, body, prompt, answer)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
        ],
        exception_handlers={
            EngineError: _render_error,
            HTTPException: _render_http_error,
            ClientDisconnect: _render_disconnect,
            Exception: _render_unexpected,
        },
    )


async def _generate(
    request: Request, service: ModelService, body: GenerationRequest, prompt: list[int], answer: Answer
) -> Response:
    """Submit, and answer as a stream or at once. Nothing is sent before the first token, so that until then a
    failure is an honest status code.
    """
    limits = limits_of(body, prompt, service.facts)
    sampling = sampling_of(body, service.facts)
    generation = Generation()
    generation.sequence = Sequence(
        id=answer.id,
        prompt=prompt,
        sampling=sampling,
        limits=limits,
        detokenizer=service.prompts.detokenizer(prompt),
        sink=generation.feed,
    )
    service.engine.submit(generation.sequence)
    try:
        if not body.stream:
            text, last = await _unless_disconnected(request, _collect(generation))
            return JSONResponse(answer.whole(text, last))
        first = await _unless_disconnected(request, generation.next())
    except BaseException:
        generation.abort()
        raise
    return GenerationStream(generation, _events(generation, first, answer, body))


class GenerationStream(StreamingResponse):
    """Server-sent events that end the generation with them, however they end."""

    def __init__(self, generation: Generation, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.abort()


async def _collect(generation: Generation) -> tuple[str, Delta]:
    pieces = []
    while True:
        delta = await generation.next()
        pieces.append(delta.text)
        if delta.finish_reason is not None:
            return "".join(pieces), delta


async def _events(
    generation: Generation, first: Delta, answer: Answer, body: GenerationRequest
) -> AsyncIterator[bytes]:
    """The stream; it ends with `[DONE]` or with one error event, never both."""
    options = body.stream_options or StreamOptions()
    continuous = options.include_usage and options.continuous_usage_stats
    if (opening := answer.opening(usage=continuous)) is not None:
        yield event(opening)
    delta = first
    while True:
        if delta.text or delta.finish_reason is not None or continuous:
            yield event(answer.chunk(delta, usage=continuous))
        if delta.finish_reason is not None:
            break
        try:
            delta = await generation.next()
        except EngineError as error:
            yield event(error.envelope())
            return
    if options.include_usage:
        yield event(answer.closing(delta))
    yield DONE


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`; raises `ClientDisconnect` as soon as the client is gone."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _check_model(body: GenerationRequest, service: ModelService) -> None:
    if body.model not in (None, service.facts.name):
        raise ModelNotFound(
            f"the model {body.model!r} is not served here; the model is {service.facts.name!r}", param="model"
        )


def _answer_id(prefix: str, request: Request) -> str:
    """`X-Request-Id` if it is plain, so that an answer can be found in the logs of all parts; else a new one."""
    given = request.headers.get("x-request-id", "")
    return f"{prefix}-{given if re.fullmatch(r'[A-Za-z0-9._-]{1,64}', given) else uuid.uuid4().hex}"


def _render(error: EngineError) -> Response:
    return JSONResponse(error.envelope(), status_code=error.status)


async def _render_error(_: Request, error: Exception) -> Response:
    return _render(error if isinstance(error, EngineError) else EngineError("unexpected error"))


async def _render_http_error(_: Request, error: Exception) -> Response:
    """Starlette's own: no such path, method not allowed."""
    status = error.status_code if isinstance(error, HTTPException) else EngineError.status
    detail = error.detail if isinstance(error, HTTPException) else "unexpected error"
    return JSONResponse(InvalidRequest(detail).envelope(), status_code=status)


async def _render_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def _render_unexpected(_: Request, __: Exception) -> Response:
    """A defect: Starlette logs it with its traceback, the caller learns nothing of it."""
    return _render(EngineError("internal error; see the engine's log"))
