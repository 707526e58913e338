"""A zero-latency OpenAI server as most are built: uvicorn and Starlette, 20 tokens as JSON or 21 events."""

import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TOKENS = 20


def completion(words: list[str]) -> dict[str, object]:
    message = {"role": "assistant", "content": " ".join(words), "refusal": None}
    choice = {"index": 0, "finish_reason": "length", "logprobs": None, "message": message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [choice],
    } | usage()


def usage() -> dict[str, object]:
    return {"usage": {"prompt_tokens": 60, "completion_tokens": TOKENS, "total_tokens": 60 + TOKENS}}


async def events(words: list[str]) -> AsyncIterator[str]:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    for word in words:
        choice = {"index": 0, "finish_reason": None, "delta": {"content": word + " "}}
        yield f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n"
    yield f"data: {json.dumps(chunk | {'choices': []} | usage())}\n\n"


async def answer(request: Request) -> Response:
    asked = await request.json()
    words = asked["messages"][-1]["content"].split()[:TOKENS]
    if asked.get("stream"):
        return StreamingResponse(events(words), media_type="text/event-stream")
    return JSONResponse(completion(words))


async def health(_: Request) -> Response:
    return Response("ok")


app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"]), Route("/health", health)])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
