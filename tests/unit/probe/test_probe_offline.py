"""A model on this machine: the same answers as behind a server, and one that does not see is caught."""

from __future__ import annotations

import base64
import io
import json
import threading

import pytest
import torch
from fake_server import FakeServer, serving
from PIL import Image
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.toy import model as toy_model
from verl_mars.toy import world
from verl_mars.toy.rows import write_split


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """A folder with 24 rows, and a model whose random weights answer as the images are."""
    folder = tmp_path_factory.mktemp("lively")
    model = toy_model.build_model(0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.15)
        model.lm_head.weight[toy_model.build_tokenizer().eos_token_id] *= 3
    toy_model.save(model, folder / "model")
    return write_split(world.make_scenes(24, 5), "heldout", folder), folder / "model", model


def lines(out):
    found = [json.loads(line) for line in (out / "responses.jsonl").open()]
    return {(line["row"], line["view"]): (line["response"], line["cut_off"]) for line in found}


def run(*arguments):
    result = CliRunner().invoke(app, ["probe", *map(str, arguments)])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_local_model_and_its_server_answer_alike(lively, tmp_path):
    """The server runs transformers prompt by prompt, from the images that it got; here prompts come in batches."""
    file, folder, model = lively
    processor = toy_model.build_processor()
    lock = threading.Lock()

    def answer(asked):
        messages, images = [], []
        for message in asked.body["messages"]:
            parts = []
            for part in message["content"] if isinstance(message["content"], list) else [message["content"]]:
                if isinstance(part, dict) and part["type"] == "image_url":
                    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    images.append(Image.open(io.BytesIO(data)).convert("RGB"))
                    parts.append({"type": "image"})
                else:
                    parts.append(part if isinstance(part, dict) else {"type": "text", "text": part})
            messages.append({"role": message["role"], "content": parts})
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=images or None, return_tensors="pt")
        with lock, torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=asked.body["max_tokens"], do_sample=False)
        return processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    common = ("--views", "fused,mono,blind,leave_one_out", "--max-tokens", 6)
    run(file, "--model", folder, "--out", tmp_path / "here", "--batch", 7, *common)
    with serving(FakeServer(answer)) as server:
        run(file, "--server", server.url, "--model", "toy", "--out", tmp_path / "there", *common)
    here, there = lines(tmp_path / "here"), lines(tmp_path / "there")
    assert {key: text for key, (text, _) in here.items()} == {key: text for key, (text, _) in there.items()}
    texts = {text for text, _ in here.values()}
    assert len(here) == 24 * 6 and len(texts) > 10
    by_view = {view: [here[row, view][0] for row in range(24)] for view in ("fused", "blind", "rgb")}
    assert by_view["fused"] != by_view["blind"] != by_view["rgb"]  # the images do reach the model


@pytest.mark.slow
def test_samples_are_drawn_by_seed(lively, tmp_path):
    file, folder, _ = lively
    common = (file, "--model", folder, "--limit", 4, "--temperature", 1, "--samples", 3, "--max-tokens", 6)
    run(*common, "--out", tmp_path / "one")
    run(*common, "--out", tmp_path / "again")
    run(*common, "--out", tmp_path / "other", "--seed", 1, "--views", "fused")
    texts = [(tmp_path / name / "responses.jsonl").read_text() for name in ("one", "again", "other")]
    assert texts[0] == texts[1]
    answers = [json.loads(line) for line in texts[0].splitlines()]
    assert len({a["response"] for a in answers if a["row"] == answers[0]["row"] and a["view"] == "fused"}) > 1


@pytest.mark.slow
def test_a_model_without_vision_and_one_that_is_not_there(lively, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    file, _, _ = lively
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=50, **small)).save_pretrained(tmp_path / "text_only")
    toy_model.build_tokenizer().save_pretrained(tmp_path / "text_only")
    cases = {"text_only": "cannot be loaded as a vision-language model", "nowhere": "no model folder"}
    for name, sentence in cases.items():
        arguments = ["probe", str(file), "--model", str(tmp_path / name), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1 and sentence in result.output, result.output
        assert not (tmp_path / "out").exists()
