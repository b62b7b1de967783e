"""A toy data set whose regimes are known, and a server that answers as it is told to."""

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
from pathlib import Path
from typing import Any

import pytest

from verl_mars.toy import world
from verl_mars.toy.rows import write_split

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


@dataclass(frozen=True)
class Toy:
    """Rows on disk, and what is true of them."""

    file: Path
    scenes: world.Scenes
    of_image: dict[str, tuple[int, str]]
    """SHA-256 of an image file -> (row, source)."""

    def shown(self, asked: Asked) -> tuple[int, set[str]] | None:
        """The row and the sources that a request shows; None without images."""
        seen = [self.of_image[image] for image in asked.images]
        return (seen[0][0], {source for _, source in seen}) if seen else None


def formatted(answer: str) -> str:
    return f"<think>looking</think><answer>{answer}</answer>"


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("probed")
    scenes = world.make_scenes(200, 3)
    file = write_split(scenes, "heldout", folder)
    of_image = {}
    for row in range(len(scenes)):
        for source in scenes.source_names(row):
            data = (folder / "images" / "heldout" / f"{row:05d}_{source}.png").read_bytes()
            of_image[hashlib.sha256(data).hexdigest()] = (row, source)
    return Toy(file, scenes, of_image)


@pytest.fixture
def misled(toy: Toy) -> Callable[[Asked], str]:
    """Right exactly where the sources shown hold the answer, except that both together follow a lying cue."""

    def answer(asked: Asked) -> str:
        shown = toy.shown(asked)
        if shown is None:
            return formatted("nothing to see")
        row, sources = shown
        scenes = toy.scenes
        together = len(sources) == 2
        conflicting = scenes.regime_name(row) == world.CONFLICTING
        right = not conflicting if together else bool(sources & set(scenes.sufficient(row)))
        asked_about = scenes.question(row) == asked.text  # of another row's images: nothing
        return formatted(scenes.answer(row) if right and asked_about else "cannot say")

    return answer
