"""math-verify in a separate process, which can be ended when an expression takes too long.

One process serves a whole reward worker. It reads a JSON line with ``gold``, ``answer`` and ``seconds`` and writes one
with ``right`` and ``problem``. It ends with its parent (end of input) and by itself when a computation overruns.
"""

import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
from typing import Any

_START_SECONDS = 120.0
_MEMORY_BYTES = 2 * 1024**3
_lock = threading.Lock()
_process: "subprocess.Popen[bytes] | None" = None
_ready = False


def ask(gold: str, answer: str, seconds: float) -> tuple[bool, str]:
    """Whether math-verify finds ``answer`` equal to ``gold``, and what kept it from finding out ("" for nothing).

    Raises:
        ModuleNotFoundError: math-verify is not installed.
        RuntimeError: its process does not start.
    """
    global _process, _ready
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError('the task math needs math-verify: pip install "math-verify>=0.9"')
    with _lock:
        if _process is None or _process.poll() is not None:
            _process, _ready = _start(), False
        if not _ready:
            if _read_line(_process, _START_SECONDS) is None:
                _end()
                raise RuntimeError(f"math-verify did not start in {_START_SECONDS:g} s ({sys.executable})")
            _ready = True
        request = json.dumps({"gold": gold, "answer": answer, "seconds": seconds}) + "\n"
        try:
            assert _process.stdin is not None
            _process.stdin.write(request.encode())
            _process.stdin.flush()
            line = _read_line(_process, seconds)
        except BrokenPipeError:
            line = None
        if line is None:
            _end()
            _process, _ready = _start(), False  # starting takes a second or two: let it do so before the next answer
            return False, f"math-verify was not done within {seconds:g} s"
        reply = json.loads(line)
        return bool(reply["right"]), str(reply["problem"])


def stop() -> None:
    """End the process, if there is one."""
    with _lock:
        _end()


def _start() -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "verl_mars.tasks.math_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _end() -> None:
    global _process, _ready
    if _process is not None:
        _process.kill()
        _process.wait()
        for pipe in (_process.stdin, _process.stdout):
            if pipe is not None:
                pipe.close()
    _process, _ready = None, False


def _read_line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
    """The next line of the process, None where none comes in time or it ended. Replies are short: one write each."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(seconds):
            return None
    line = process.stdout.readline()
    return line if line.endswith(b"\n") else None


def _serve() -> None:
    """The process itself."""
    import logging
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a library's print must not look like a reply
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]  # never its other reader, which evaluates Python expressions

    def read(expression: str) -> list[Any]:
        return list(parse(f"${expression}$", extraction_config=config, parsing_timeout=None))

    def close(gold: list[Any], answer: list[Any]) -> bool:
        """math-verify rounds to six places: two tiny numbers, or two infinities, are equal to it."""
        try:
            one, other = complex(gold[0]), complex(answer[0])
        except (TypeError, ValueError, AttributeError, OverflowError, IndexError):
            return True
        return one == other or abs(one - other) <= 1e-5 * abs(one)

    verify(read("x^2+1"), read("1+x^2"), timeout_seconds=None)  # the first use compiles grammars: not on the clock
    print("ready", file=output, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # Whoever asked has gone on by then, or is gone: end without a word.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 5.0)
        reply = {"right": False, "problem": ""}
        try:
            answer = read(request["answer"])
            if answer:
                gold = read(request["gold"])
                reply["right"] = bool(verify(gold, answer, timeout_seconds=None)) and close(gold, answer)
            else:
                reply["problem"] = "math-verify reads no expression in the answer"
        except Exception as error:  # whatever a model's text sets off in there is a wrong answer
            reply["problem"] = f"math-verify: {type(error).__name__}"
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(json.dumps(reply), file=output, flush=True)


if __name__ == "__main__":
    _serve()
