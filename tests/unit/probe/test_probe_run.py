"""A probe from rows to report against a server whose answers are known."""

from __future__ import annotations

import csv
import json
import os
import time

import pytest
from fake_server import FakeServer, completion, formatted, serving
from typer.testing import CliRunner

from verl_mars.cli import app
from verl_mars.toy import world

pytestmark = pytest.mark.slow  # each starts a server

ALL = "fused,mono,blind,leave_one_out,shuffled,repeat"


def run(server, toy, out, *options, model="toy", file=None):
    arguments = ["probe", str(file or toy.file), "--server", server.url, "--model", model, "--out", str(out)]
    return CliRunner().invoke(app, [*arguments, *options])


def summary(out):
    return json.loads((out / "summary.json").read_text())


def test_shares_and_gains_agree_with_the_world(toy, misled, tmp_path):
    with serving(FakeServer(misled)) as server:
        result = run(server, toy, tmp_path / "out", "--views", ALL, "--power", "0.05")
    assert result.exit_code == 0, result.output
    found = summary(tmp_path / "out")
    shares = {name: entry["value"] for name, entry in found["shares"].items()}
    expected = {"complementary": 0.25, "redundant": 0.25, "dominant": 0.25, "interference": 0.25, "unsolved": 0.0}
    assert {name: shares[name] for name in expected} == pytest.approx(expected)
    scenes = toy.scenes
    rows = range(len(scenes))
    alone = [[name in scenes.sufficient(row) for name in scenes.source_names(row)] for row in rows]
    fused = [scenes.regime_name(row) != world.CONFLICTING for row in rows]
    gain = sum(f - sum(a) / 2 for f, a in zip(fused, alone, strict=True)) / len(scenes)
    assert found["accuracy"]["fused"]["value"] == pytest.approx(0.75)
    assert found["gains"]["mean"]["value"] == pytest.approx(gain)
    assert found["gains"]["blind"]["value"] == pytest.approx(0.75)
    assert 0.55 < found["gains"]["shuffled"]["value"] < 0.75  # another row's answer is sometimes this one's
    of_rgb = [row for row in rows if "rgb" in scenes.sufficient(row)]
    assert found["accuracy"]["rgb"]["value"] == pytest.approx(len(of_rgb) / len(scenes))
    # every row is rgb with one other sensor: without it, rgb is all that is left
    assert found["accuracy"]["without_infrared"]["rows"] + found["accuracy"]["without_depth"]["rows"] == len(scenes)
    total = sum(e["value"] * e["rows"] for e in found["shapley"].values()) / len(scenes)
    assert total == pytest.approx(found["gains"]["blind"]["value"])
    conflicting = sum(scenes.regime_name(row) == world.CONFLICTING for row in rows)
    only_source = sum(found["mcnemar"][name]["only_source"] for name in ("infrared", "depth"))
    assert only_source == conflicting
    assert found["missing"] == {} and found["rows_needed"]["rows"]["mean"] > 100
    assert any(words in found["verdict"] for words in ("loses to", "not shown to beat", "nor over"))


def test_files_can_be_scored_again_and_ranked(toy, misled, tmp_path):
    with serving(FakeServer(misled)) as server:
        run(server, toy, tmp_path / "out", "--limit", "40")
    responses, scores = tmp_path / "out" / "responses.jsonl", tmp_path / "scores.json"
    again = CliRunner().invoke(app, ["score", str(responses), "--summary", str(scores)])
    assert again.exit_code == 0, again.output
    by = json.loads(scores.read_text())["tasks"]["vqa"]["by"]["data_source"]
    fused = next(group for group in by if group["name"] == "toy_multisource@fused")
    found = summary(tmp_path / "out")
    assert fused["metrics"]["acc"]["value"] == pytest.approx(found["accuracy"]["fused"]["value"])
    header, line = csv.reader((tmp_path / "out" / "leaderboard.csv").open())
    assert float(dict(zip(header, line, strict=True))["fused"]) == pytest.approx(
        fused["metrics"]["acc"]["value"], abs=1e-4
    )


def test_only_what_is_missing_is_asked(toy, misled, tmp_path):
    out = tmp_path / "out"
    with serving(FakeServer(misled)) as server:
        run(server, toy, out, "--limit", "20")
        first = len(server.asked)
        whole = (out / "responses.jsonl").read_bytes()
        lines = whole.splitlines(keepends=True)
        (out / "responses.jsonl").write_bytes(b"".join(lines[:30]) + lines[30][:25])  # killed while writing
        server.asked.clear()
        result = run(server, toy, out, "--limit", "20")
        assert result.exit_code == 0, result.output
        kept = {json.loads(line)["key"] for line in lines[:30]}
        # one more than is missing: the question that checks whether the server takes images
        assert len(server.asked) == len({json.loads(line)["key"] for line in lines} - kept) + 1 < first
        assert sorted((out / "responses.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())
        server.asked.clear()
        run(server, toy, out, "--limit", "20")
        assert not server.asked
        run(server, toy, out, "--limit", "30")  # more rows: the same ones and ten more
        assert len(server.asked) == 10 * 3 + 1  # (without images, the rows have four questions among them)


def test_the_same_question_is_asked_once(toy, misled, tmp_path):
    """A source without a prompt of its own is asked with the repeated fused prompt: `repeat` costs nothing more."""
    with serving(FakeServer(misled)) as server:
        run(server, toy, tmp_path / "out", "--limit", "10", "--views", "fused,mono,repeat")
        assert len(server.asked) == 10 * 3 + 1
    assert summary(tmp_path / "out")["own_prompt"]["rgb"]["value"] == 0
    assert summary(tmp_path / "out")["asked"]["repeat_rgb"] == 10


def test_a_folder_of_another_probe_is_left_alone(toy, misled, tmp_path):
    out = tmp_path / "out"
    with serving(FakeServer(misled, models=("toy", "other"))) as server:
        run(server, toy, out, "--limit", "5")
        before = {file.name: file.read_bytes() for file in out.iterdir()}
        result = run(server, toy, out, "--limit", "5", model="other")
        assert result.exit_code == 1 and 'model is "toy" there, "other" now' in result.output
        result = run(server, toy, out, "--limit", "5", "--temperature", "0.7")
        assert result.exit_code == 1 and "another probe: sampling is" in result.output
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    result = run(server, toy, tmp_path / "mine")
    assert result.exit_code == 1 and "holds no probe" in result.output


def test_failures_are_missing_and_never_wrong(toy, misled, tmp_path, monkeypatch):
    """A server that fails for good on a tenth of the questions, in every way it can."""
    monkeypatch.setattr("verl_mars.probe.server.Server.first_wait", 0.001)
    ways = [
        (500, {}, b"broken"),
        (429, {"Retry-After": "0"}, b"slow down"),
        (0, {}, b""),
        (200, {}, b"<html>nonsense"),
        (200, {}, completion(None)),
        (200, {}, b'{"choices": []}'),
    ]

    def reply(asked, count):
        number = int(str(hash_of(asked)), 16)
        return ways[number % len(ways)] if number % 10 == 0 and count > 1 else None

    with serving(FakeServer(misled, reply)) as server:
        result = run(server, toy, tmp_path / "out", "--limit", "100")
    assert result.exit_code == 0, result.output
    found = summary(tmp_path / "out")
    missing = sum(found["missing"].values())
    assert 10 < missing < 90 and sum(found["missing_because"].values()) == missing
    assert found["accuracy"]["fused"]["rows"] == 100 - found["missing"].get("fused", 0)
    assert "answers are missing and count as nothing" in result.output
    lines = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").open()]
    assert len(lines) == 400 - missing
    # what was answered is scored as if nothing had failed
    for line in lines:
        if line["view"] == "fused":
            row = line["row"]
            assert line["response"] == misled_text(toy, row)


def hash_of(asked):
    import hashlib

    return hashlib.sha256(repr((asked.images, asked.text)).encode()).hexdigest()


def misled_text(toy, row):
    right = toy.scenes.regime_name(row) != world.CONFLICTING
    return formatted(toy.scenes.answer(row) if right else "cannot say")


def test_what_passes_is_tried_again(toy, misled, tmp_path, monkeypatch):
    monkeypatch.setattr("verl_mars.probe.server.Server.first_wait", 0.001)
    seen = set()

    def reply(asked, count):
        key = hash_of(asked)
        if key in seen:
            return None
        seen.add(key)
        return 503, {}, b"loading"

    with serving(FakeServer(misled, reply)) as server:
        result = run(server, toy, tmp_path / "out", "--limit", "10")
    assert result.exit_code == 0 and summary(tmp_path / "out")["missing"] == {}


def test_a_server_that_hangs(toy, misled, tmp_path, monkeypatch):
    """The probe stops after a number of failures in a row, keeps what it has, and says so."""
    monkeypatch.setattr("verl_mars.probe.server.Server.first_wait", 0.001)
    monkeypatch.setattr("verl_mars.probe.server.Server.attempts", 2)
    monkeypatch.setattr("verl_mars.probe.server.Server.give_up", 8)

    def reply(asked, count):
        if count > 30:
            time.sleep(3)
            return 0, {}, b""
        return None

    with serving(FakeServer(misled, reply)) as server:
        started = time.monotonic()
        result = run(server, toy, tmp_path / "out", "--limit", "40", "--concurrency", "4", "--timeout", "1")
        assert time.monotonic() - started < 60
        assert result.exit_code == 1 and "the last 8 questions were not answered" in result.output
        assert 20 < len((tmp_path / "out" / "responses.jsonl").read_text().splitlines()) < 160
        assert (tmp_path / "out" / "report.html").exists()
        server.reply = lambda asked, count: None
        assert run(server, toy, tmp_path / "out", "--limit", "40").exit_code == 0
    assert summary(tmp_path / "out")["missing"] == {}


def test_blindness_ends_with_its_exit_code(toy, misled, tmp_path):
    def unseeing(asked):
        return formatted("top left" if "where" in asked.text else "red")

    with serving(FakeServer(unseeing)) as server:
        result = run(server, toy, tmp_path / "blind", "--limit", "100", "--fail-below", "blind", "0.02")
        assert result.exit_code == 3 and "--fail-below blind: the gain is" in result.output
        assert "do not show that the model sees its images" in summary(tmp_path / "blind")["verdict"]
    with serving(FakeServer(misled)) as server:
        result = run(server, toy, tmp_path / "sees", "--limit", "100", "--fail-below", "blind", "0.02")
        assert result.exit_code == 0, result.output
        result = run(server, toy, tmp_path / "few", "--views", "fused,mono", "--fail-below", "blind", "0.02")
        assert result.exit_code == 2 and "needs the view blind" in result.output
        assert not (tmp_path / "few").exists()


def test_two_models_are_compared_by_row(toy, misled, tmp_path):
    def better(asked):
        shown = toy.shown(asked)
        return formatted(toy.scenes.answer(shown[0])) if shown and len(shown[1]) == 2 else misled(asked)

    with serving(FakeServer(misled, models=("before", "after"))) as server:
        run(server, toy, tmp_path / "before", model="before")
        server.answer = better
        result = run(server, toy, tmp_path / "after", "--compare", str(tmp_path / "before"), model="after")
    assert result.exit_code == 0, result.output
    differences = summary(tmp_path / "after")["compared"]["differences"]
    assert differences["fused"]["value"] == pytest.approx(0.25) and differences["fused"]["p_holm"] < 1e-9
    assert differences["rgb"]["value"] == 0 and differences["information_gain"]["value"] == pytest.approx(0.25)


def test_the_key_comes_from_the_environment(toy, misled, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with serving(FakeServer(misled)) as server:
        run(server, toy, tmp_path / "out", "--limit", "2")
        assert server.authorization == "Bearer sesame"
    assert all(b"sesame" not in file.read_bytes() for file in (tmp_path / "out").iterdir())


def refusing(status, words):
    return lambda asked, count: (status, {}, json.dumps({"error": {"message": words}}).encode())


def test_bad_input_is_a_sentence(toy, misled, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("verl_mars.probe.server.Server.first_wait", 0.001)
    with serving(FakeServer(misled)) as server:
        cases = {
            "view 'thermal' is unknown, allowed: fused": ["--views", "fused,thermal"],
            "no such gain, allowed: mean, best": ["--fail-below", "nothing", "0.1"],
            "above 0 and at most 1": ["--power", "3"],
            "--set.colour: unknown key": ["--set", "colour=1"],
            "does not serve --model": [],
        }
        for sentence, options in cases.items():
            model = "unknown" if not options else "toy"
            result = run(server, toy, out, *options, model=model)
            assert result.exit_code in (1, 2) and sentence in result.output, (sentence, result.output)
        server.reply = refusing(400, "toy is not a multimodal model")
        result = run(server, toy, out, "--limit", "4")
        assert result.exit_code == 1 and "not a multimodal model" in result.output
        assert "Serve a vision-language model" in result.output
        server.reply = refusing(401, "no key")
        assert "set OPENAI_API_KEY" in run(server, toy, out, "--limit", "4").output
    result = run(server, toy, out)
    assert result.exit_code == 1 and "no server at" in result.output and "vllm serve toy" in result.output
    assert not out.exists()
    server.url = "localhost:8000"
    assert "an address as http://localhost:8000/v1" in run(server, toy, out).output


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sources": []}, "`sources` is missing or empty"),
        ({"images": []}, "`images` is missing or empty"),
        ({"extra_info": {"task": "poem"}}, "'poem' is no task; allowed"),
    ],
)
def test_rows_that_cannot_be_probed(toy, misled, tmp_path, change, sentence):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(toy.file).slice(0, 3)
    rows = table.to_pylist()
    for key, value in change.items():
        rows[1][key] = {**rows[1][key], **value} if isinstance(value, dict) else value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "bad.parquet")
    with serving(FakeServer(misled)) as server:
        result = run(server, toy, tmp_path / "out", file=tmp_path / "bad.parquet")
        assert result.exit_code == 1 and sentence in result.output, result.output
        assert not server.asked and not (tmp_path / "out").exists()


def boxed(toy, folder):
    """Rows that ask for boxes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(toy.file).slice(0, 6)
    rows = table.to_pylist()
    for row in rows:
        row["extra_info"]["task"] = "grounding"
        truth = {"boxes": [[0, 0, 28, 28]], "labels": ["object"], "frame": 0, "size": [56, 56]}
        row["reward_model"]["ground_truth"] = json.dumps(truth)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "boxed.parquet")
    return folder / "boxed.parquet"


def test_boxes_are_read_in_the_frame_of_the_model(toy, tmp_path):
    file = boxed(toy, tmp_path)

    def answer(asked):
        box = [0, 0, 500, 500] if len(set(asked.images)) == 2 else [0, 0, 1, 1]
        return formatted(json.dumps([{"bbox_2d": box, "label": "object"}]))

    with serving(FakeServer(answer)) as server:
        result = run(server, toy, tmp_path / "none", file=file)
        assert result.exit_code == 2 and "name the model's frame with --coordinates" in result.output
        result = run(server, toy, tmp_path / "scaled", "--coordinates", "pixel", "--max-pixels", "800", file=file)
        assert result.exit_code == 2 and "do not follow a smaller image" in result.output
        result = run(server, toy, tmp_path / "out", "--coordinates", "qwen3_vl", file=file)
        assert result.exit_code == 0, result.output
    found = summary(tmp_path / "out")
    assert found["accuracy"]["fused"]["value"] == pytest.approx(1.0) and found["accuracy"]["rgb"]["value"] == 0
    assert found["shares"]["complementary"]["value"] == 1.0


def test_large_images_are_scaled_down(toy, tmp_path):
    import base64
    import io

    from PIL import Image

    sizes = set()

    def answer(asked):
        return formatted("red")

    with serving(FakeServer(answer)) as server:
        result = run(server, toy, tmp_path / "out", "--limit", "2", "--max-pixels", "800")
        assert result.exit_code == 0, result.output
        for asked in server.asked:
            for message in asked.body["messages"]:
                for part in message["content"] if isinstance(message["content"], list) else []:
                    if part["type"] == "image_url":
                        data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                        sizes.add(Image.open(io.BytesIO(data)).size)
    assert sizes == {(28, 28)}


def test_a_missing_image_is_found_before_anything_is_asked(toy, misled, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(toy.file).slice(0, 3)
    rows = table.to_pylist()
    rows[2]["images"][1]["image"] = os.fspath(tmp_path / "gone.png")
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "bad.parquet")
    with serving(FakeServer(misled)) as server:
        result = run(server, toy, tmp_path / "out", file=tmp_path / "bad.parquet")
    assert result.exit_code == 1 and "gone.png: No such file" in result.output and not server.asked
