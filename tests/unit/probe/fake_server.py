"""An OpenAI-compatible server that answers as a test says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Asked:
    """A request as the server sees it."""

    images: tuple[str, ...]
    """SHA-256 of each image's file."""
    text: str
    body: dict[str, Any]


@dataclass
class FakeServer:
    """An OpenAI-compatible server. ``answer`` gives the text; ``reply`` the whole reply, if it is not None."""

    answer: Callable[[Asked], str]
    reply: Callable[[Asked, int], Reply | None] = lambda asked, count: None
    models: tuple[str, ...] = ("toy",)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    authorization: str | None = None


def completion(text: Any, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 7}}).encode()


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            names = [{"id": name} for name in server.models]
            self._send(200, {}, json.dumps({"data": names}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.authorization = self.headers.get("Authorization")
            asked = read(body)
            with lock:
                server.asked.append(asked)
                count = len(server.asked)
            reply = server.reply(asked, count)
            if reply is None:
                reply = (200, {}, completion(server.answer(asked)))
            if reply[0] == 0:  # a closed connection
                self.close_connection = True
                return
            self._send(*reply)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    http = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def read(body: dict[str, Any]) -> Asked:
    images, texts = [], []
    for message in body["messages"]:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                data = base64.b64decode(re.fullmatch(r"data:image/png;base64,(.*)", part["image_url"]["url"])[1])
                images.append(hashlib.sha256(data).hexdigest())
    return Asked(tuple(images), "".join(texts), body)


def formatted(answer: str) -> str:
    return f"<think>looking</think><answer>{answer}</answer>"
