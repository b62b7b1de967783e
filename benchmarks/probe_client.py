"""Cost of the probe's client: ``python benchmarks/probe_client.py`` prints a table and writes
results/probe_client.json.

``verl-mars probe`` asks 2,000 rows with two images each in 4 views, fused, each source and blind, of a local server
that answers at once. The command runs as a process; its CPU time and its largest memory are those that the system
counted for it, start, scoring and report included. Every image and every question is another one, so that none is
asked twice.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import report
from PIL import Image

from verl_mars.data.schema import write_rows
from verl_mars.fields import FieldDict

ROWS, VIEWS = 2000, 4
SIDE = 448
MILLISECONDS, MEGABYTES = 5.0, 1000.0
"""The most CPU time a request, and the most memory."""

_TEXT = "<think>at once</think><answer>red</answer>"
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}
ANSWER = json.dumps({"choices": [_CHOICE], "usage": {"completion_tokens": 9}}).encode()
MODELS = json.dumps({"data": [{"id": "instant"}]}).encode()


def serve(port: Connection) -> None:
    """An OpenAI-compatible server that reads a request and answers at once; sends its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b""
                )
                await reader.readexactly(int(length.partition(b":")[2] or 0))
                body = MODELS if head.startswith(b"GET") else ANSWER
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**20)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def write(folder: Path, rows: int) -> tuple[Path, int]:
    """Rows with two pictures each; returns their file and the bytes of a picture."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=93)
    picture = buffer.getvalue()
    made = []
    for row in range(rows):
        images = []
        for source in ("rgb", "infrared"):
            path = folder / f"{row}-{source}.jpg"
            path.write_bytes(picture + f"{row} {source}".encode())  # a reader ignores what follows the image
            images.append({"image": str(path)})
        made.append(
            {
                "data_source": "instant",
                "prompt": [{"role": "user", "content": f"<image><image>What colour has object {row}?"}],
                "images": images,
                "ability": "vqa",
                "reward_model": {"style": "rule", "ground_truth": json.dumps({"answers": ["red"]})},
                "extra_info": {
                    "index": row,
                    "split": "val",
                    "sample_id": f"val-{row}",
                    "task": "vqa",
                    "sources": ["rgb", "infrared"],
                    "image_sizes": [[SIDE, SIDE]] * 2,
                },
                "sources": [
                    {"name": name, "images": [number], "prompt": None, "ground_truth": None}
                    for number, name in enumerate(("rgb", "infrared"))
                ],
            }
        )
    file = folder / "val.parquet"
    write_rows(file, made)
    return file, len(picture)


def measure(rows: int) -> FieldDict:
    """Run the probe in a process and ask the system what it took."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    with tempfile.TemporaryDirectory() as folder:
        file, size = write(Path(folder), rows)
        out = Path(folder) / "out"
        arguments = ["probe", str(file), "--server", url, "--model", "instant", "--out", str(out)]
        code = "from verl_mars.cli import main; main()"
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        server.terminate()
        if status != 0:
            raise SystemExit(f"the probe ended with status {status}")
        summary = json.loads((out / "summary.json").read_text())
        answered = sum(summary["asked"].values()) - sum(summary["missing"].values())
        if answered != VIEWS * rows:
            raise SystemExit(f"{answered} of {VIEWS * rows} questions were answered")
        report_megabytes = (out / "report.html").stat().st_size / 1e6
    return {
        "rows": rows,
        "requests": answered,
        "image_bytes": size,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "milliseconds_a_request": 1000 * (usage.ru_utime + usage.ru_stime) / answered,
        "seconds": wall,
        "megabytes": usage.ru_maxrss * 1024 / 1e6,
        "report_megabytes": report_megabytes,
    }


def table(result: FieldDict) -> str:
    head = ["requests", "images", "CPU a request, ms", "peak memory, MB", "report of 500 rows, MB"]
    images = f"2 of {result['image_bytes'] / 1000:.0f} KB a row"
    figures = [f"{result['milliseconds_a_request']:.1f}", f"{result['megabytes']:.0f}"]
    row = [f"{result['requests']:,}", images, *figures, f"{result['report_megabytes']:.1f}"]
    return f"{report.where(result)}\n\n{report.markdown(head, [row])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    result = report.about("aiohttp") | measure(parser.parse_args().rows)
    report.publish("probe_client", result, table(result))


if __name__ == "__main__":
    main()
