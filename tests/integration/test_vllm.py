"""The toy on vLLM's CPU build: MARS for two steps with verl's own server, and the probe of a served model. Run by
`make test-vllm`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import pytest
import torch
from letters_reward import LETTERS
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.toy.prepare import prepare

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here: `make test-vllm` sets it up"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM's CPU build is meant for machines without CUDA"),
]


@pytest.fixture(scope="module")
def run(small_run):
    return small_run(
        "toy_mars_grpo",
        "hardware=cpu_vllm",
        *LETTERS,
        "actor_rollout_ref.actor.optim.lr=1e-3",  # far enough that weights of the step before would be noticed
    )


def test_both_steps_were_trained_with_anchors(run):
    for step in (1, 2):
        metrics = run.metrics[step]
        assert metrics["actor/grad_norm"] > 0
        assert metrics["mars/missing_anchors"] == 0
        assert "mars/info_gain" in metrics


def test_the_engine_samples_from_the_new_weights(run):
    """The probabilities that the engine reported are those of the actor, before the first update and after it."""
    for step in (1, 2):
        assert run.metrics[step]["training/rollout_probs_diff_max"] < 1e-3


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The toy's rows, its warm-started model, and the address of vLLM's OpenAI-compatible server for it."""
    toy = prepare(progress=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    options = ["--served-model-name=toy", "--dtype=float32", "--max-model-len=512", "--max-num-seqs=16"]
    options += ["--enforce-eager", f"--port={port}", "--host=127.0.0.1", '--limit-mm-per-prompt={"image": 2}']
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={toy.model}", *options]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=os.environ | quiet, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 400
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail("the server did not start:\n" + log.read_text(errors="replace")[-4000:])
            time.sleep(1)
        yield toy, f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def test_the_probe_gets_the_same_text_from_its_server_as_from_transformers(served, tmp_path):
    toy, url = served
    found = {}
    for name, model in (("server", ["--server", url, "--model", "toy"]), ("offline", ["--model", str(toy.model)])):
        options = ["--views", "fused,mono,blind,shuffled", "--limit", "40", "--max-tokens", "24", "--out"]
        arguments = ["probe", str(toy.heldout_file), *model, *options, str(tmp_path / name)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        lines = [json.loads(line) for line in (tmp_path / name / "responses.jsonl").open()]
        found[name] = {(line["row"], line["view"]): line["response"] for line in lines}
    assert len(found["offline"]) == 40 * 5 and len(set(found["offline"].values())) > 10
    assert found["server"] == found["offline"]
