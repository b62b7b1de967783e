"""Questions to an OpenAI-compatible server: vLLM, SGLang, a hosted one.

What may pass is tried again with growing pauses: 429, 5xx, time-outs, closed connections, replies without an answer in
them. What still fails is missing. When nothing is answered for long the probe stops instead of running into one
time-out after the other.
"""

import asyncio
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

import aiohttp
import tenacity

from verl_mars.errors import UsageError
from verl_mars.probe.engine import Answer, Missing, ProbeError, Record
from verl_mars.probe.pictures import Picture, Pictures
from verl_mars.probe.questions import Question, Sampling
from verl_mars.views import Message

KEY_VARIABLE = "OPENAI_API_KEY"
MOST_REPLY_BYTES = 8 * 2**20
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_LONGEST_WAIT = 30.0


class _Passing(Exception):
    """A failure that may pass; ``wait`` in seconds where the server says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Refused(Exception):
    """A failure that another try would meet again."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status, self.words = status, words


@dataclass
class Server:
    """A served model.

    Args:
        url: of the server, with or without ``/v1``.
        model: its name there.
        timeout: seconds for a whole reply.
    """

    url: str
    model: str
    pictures: Pictures
    sampling: Sampling
    concurrency: int = 32
    timeout: float = 300.0

    attempts: ClassVar[int] = 5
    """Of each question."""
    give_up: ClassVar[int] = 100
    """Questions in a row without an answer, after which the probe stops."""
    first_wait: ClassVar[float] = 0.5
    """Seconds; the bound of the random pause before the second attempt, doubled with each further one."""

    _limit_key: str = field(default="max_tokens", init=False)
    _place: str = field(default_factory=lambda: f"image-{secrets.token_hex(16)}", init=False)
    """Stands in a request's text for an image; no question can hold it."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"--server {self.url}: an address as http://localhost:8000/v1 is needed")
        self.url = self.url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")

    def check(self, question: Question) -> None:
        """Find the server and the model, and ask one question with images.

        Raises:
            ProbeError: no server, no such model, no access, or a model without vision.
        """
        asyncio.run(self._check(question))

    def ask(self, questions: Iterator[Question], record: Record) -> None:
        """Ask them all, ``concurrency`` at a time.

        Raises:
            ProbeError: nothing was answered ``give_up`` times in a row.
        """
        asyncio.run(self._ask(questions, record))

    async def _check(self, question: Question) -> None:
        async with self._session() as session:
            try:
                async with session.get(f"{self.url}/models") as reply:
                    status, body = reply.status, await _read(reply)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                raise ProbeError(
                    f"no server at {self.url} ({_words(error)}); start one, such as `vllm serve {self.model}`, or "
                    "correct --server"
                ) from None
            except _Passing as error:
                raise ProbeError(f"{self.url}/models: {error}; is this an OpenAI-compatible server?") from None
            if status in (401, 403):
                raise ProbeError(f"{self.url} refuses access (HTTP {status}); set {KEY_VARIABLE} to your key")
            names = _model_names(body) if status == 200 else []
            if names and self.model not in names:
                raise ProbeError(f"{self.url} does not serve --model {self.model}; it serves {', '.join(names[:10])}")
            try:
                await self._answer(session, question)
            except _Refused as error:
                if "max_completion_tokens" in error.words and self._limit_key == "max_tokens":
                    self._limit_key = "max_completion_tokens"  # newer hosted models
                    return await self._check(question)
                if error.status in (401, 403):
                    raise ProbeError(f"{self.url} refuses access ({error}); set {KEY_VARIABLE} to your key") from None
                raise ProbeError(
                    f"{self.url} refuses a question with images ({error}). Serve a vision-language model, with as many "
                    "images a prompt as the rows have (vLLM: --limit-mm-per-prompt)"
                ) from None
            except _Passing as error:
                raise ProbeError(f"{self.url} did not answer a first question: {error}") from None

    async def _ask(self, questions: Iterator[Question], record: Record) -> None:
        failures = 0

        async def work(session: aiohttp.ClientSession) -> None:
            nonlocal failures
            for question in questions:
                try:
                    record(question, await self._answer(session, question))
                    failures = 0
                except (_Passing, _Refused) as error:
                    record(question, Missing(str(error)))
                    failures += 1
                    if failures >= self.give_up:
                        raise ProbeError(
                            f"{self.url}: the last {failures} questions were not answered (last: {error}); what was "
                            "answered is kept. Mend the server and run the same command again"
                        ) from None

        async with self._session() as session:
            workers = [asyncio.create_task(work(session)) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _session(self) -> aiohttp.ClientSession:
        key = os.environ.get(KEY_VARIABLE)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.timeout, connect=min(30.0, self.timeout)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def _answer(self, session: aiohttp.ClientSession, question: Question) -> Answer:
        """One answer, after as many tries as are allowed.

        Raises:
            _Passing: every try failed.
            _Refused: the server will not answer this question.
        """
        body = self._body(question)
        tries = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=self._wait,
            reraise=True,
        )
        return await tries(self._try, session, body)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next try: what the server asks for, else random and growing."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _Passing) and error.wait is not None:
            return min(error.wait, _LONGEST_WAIT)
        return tenacity.wait_random_exponential(multiplier=self.first_wait, max=_LONGEST_WAIT)(state)

    async def _try(self, session: aiohttp.ClientSession, body: bytes) -> Answer:
        try:
            async with session.post(
                f"{self.url}/chat/completions",
                data=body,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,  # the key goes to no other host
            ) as reply:
                text = await _read(reply)
                if reply.status in _PASSING:
                    raise _Passing(f"HTTP {reply.status}", _seconds(reply.headers.get("Retry-After")))
                if reply.status != 200:
                    raise _Refused(reply.status, _error_text(text))
        except asyncio.TimeoutError:
            raise _Passing(f"no reply within {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Passing(_words(error)) from None
        return _answer_of(text)

    def _body(self, question: Question) -> bytes:
        """The request as JSON. Images are put into the finished text: base64 needs no escaping, and reading through
        it for characters that do would be most of the client's work."""
        pictures: list[Picture] = []
        messages = [
            {"role": message["role"], "content": self._content(message["content"], pictures)}
            for message in question.messages
        ]
        text = json.dumps(
            {
                "model": self.model,
                "messages": messages,
                "temperature": self.sampling.temperature,
                self._limit_key: self.sampling.max_tokens,
                "seed": question.seed,
            }
        )
        pieces = text.encode().split(self._place.encode())
        urls = (picture.data_url for picture in pictures)
        return pieces[0] + b"".join(part for url, piece in zip(urls, pieces[1:], strict=True) for part in (url, piece))

    def _content(self, content: str | list[Message], pictures: list[Picture]) -> str | list[Message]:
        """Content as servers take it, with a mark in the place of each image; adds the images to ``pictures``."""
        if isinstance(content, str):
            return content
        parts: list[Message] = []
        for part in content:
            if part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            else:
                pictures.append(self.pictures.load(part))
                parts.append({"type": "image_url", "image_url": {"url": self._place}})
        return parts


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    """A reply's body, as long as it is no longer than any answer.

    Raises:
        _Passing: it is longer.
    """
    body = bytearray()
    async for piece in reply.content.iter_chunked(2**16):
        body += piece
        if len(body) > MOST_REPLY_BYTES:
            raise _Passing(f"a reply of more than {MOST_REPLY_BYTES} bytes")
    return bytes(body)


def _answer_of(body: bytes) -> Answer:
    """The answer in a reply.

    Raises:
        _Passing: there is none in it.
    """
    try:
        reply = json.loads(body)
        choice = reply["choices"][0]
        message = choice["message"]
        text, finish = message.get("content"), choice.get("finish_reason")
        thought = message.get("reasoning_content") or message.get("reasoning")
        tokens = (reply.get("usage") or {}).get("completion_tokens")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise _Passing("a reply that is no chat completion") from None
    cut_off = finish == "length"
    if text is None and (cut_off or isinstance(thought, str)):
        text = ""  # every token went into the thought
    if not isinstance(text, str):
        raise _Passing("a reply without text")
    if isinstance(thought, str) and thought and "<think>" not in text:
        text = f"<think>{thought}</think>{text}"
    return Answer(text, cut_off, tokens if isinstance(tokens, int) else None)


def _model_names(body: bytes) -> list[str]:
    try:
        return [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, RecursionError, LookupError, TypeError):
        return []


def _error_text(body: bytes) -> str:
    """The server's words, short."""
    text = body[:2000].decode("utf-8", "replace")
    try:
        error = json.loads(body)
        error = error.get("error", error)
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError, AttributeError):
        pass
    return " ".join(text.split())[:300]


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:200]
