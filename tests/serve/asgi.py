"""One request to an ASGI app in this process."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Web:
    """Asks an app; bodies arrive in parts of 4 KiB as a server would pass them on."""

    def __init__(self, app) -> None:
        self._app = app

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    async def post(self, path: str, value: object) -> Answer:
        return await self.ask("POST", path, json.dumps(value).encode())

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        parts = [body[i : i + 4096] for i in range(0, len(body), 4096)] or [b""]
        sent: list[dict] = []

        async def receive() -> dict:
            if not parts:  # a caller that waits for the answer sends nothing
                await asyncio.Event().wait()
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "scheme": "http",
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self._app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))
