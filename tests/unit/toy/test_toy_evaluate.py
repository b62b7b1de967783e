import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from verl_mars.toy import world
from verl_mars.toy.evaluate import Evaluation, HeldOut, evaluate, latest_checkpoint, read_heldout
from verl_mars.toy.world import parse_answer


@pytest.fixture(scope="module")
def heldout(toy_folder: Path) -> HeldOut:
    return read_heldout(toy_folder / "heldout.parquet")


@pytest.fixture(scope="module")
def evaluation(toy_folder: Path, heldout: HeldOut) -> Evaluation:
    return evaluate(toy_folder / "model", heldout)


def _images_of(messages: list[dict[str, Any]]) -> list[str]:
    return [part["image"] for part in messages[0]["content"] if part["type"] == "image"]


def test_rows_are_read_with_every_view(heldout: HeldOut, scenes: world.Scenes) -> None:
    assert len(heldout) == 12
    assert heldout.answers == tuple(scenes.answer(row) for row in range(12))
    assert [row for row, _ in heldout.views["fused"]] == [row for row, _ in heldout.views["rgb"]] == list(range(12))
    for row, messages in heldout.views["fused"]:
        assert _images_of(messages) == [str(path) for path in heldout.images[row]]
    for name in ("infrared", "depth"):
        shown = heldout.views[name]
        assert [row for row, _ in shown] == [row for row in range(12) if scenes.source_names(row)[1] == name]
        for row, messages in shown:
            assert _images_of(messages) == [str(heldout.images[row][1])] * 2


def test_answers_are_those_of_transformers_generate(toy_folder: Path, heldout: HeldOut, evaluation: Evaluation) -> None:
    model = AutoModelForImageTextToText.from_pretrained(toy_folder / "model").eval()
    processor = AutoProcessor.from_pretrained(toy_folder / "model")
    answers = set()
    for view, shown in heldout.views.items():
        for row, messages in shown[:4]:
            text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            inputs = processor(text=[text], images=[Image.open(p) for p in _images_of(messages)], return_tensors="pt")
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
            ended = bool((ids == processor.tokenizer.eos_token_id).any())
            assert evaluation.ended[view][row] == ended
            # As verl decodes it; the random model says special tokens too.
            expected = processor.tokenizer.decode(ids[:-1] if ended else ids)
            assert evaluation.responses[view][row] == expected
            answers.add(expected)
    assert len(answers) > 5


def test_rows_without_a_source_count_neither_way(evaluation: Evaluation, heldout: HeldOut) -> None:
    for row in range(12):
        for view in ("infrared", "depth"):
            absent = view not in heldout.sources[row]
            assert (evaluation.responses[view][row] is None) == absent
            assert np.isnan(evaluation.right[view][row]) == absent


def test_sampling_repeats_with_its_seed_and_leaves_the_global_state(toy_folder: Path, heldout: HeldOut) -> None:
    state = torch.get_rng_state()
    runs = [evaluate(toy_folder / "model", heldout, 1.0, seed, views=["fused"]).responses for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert runs[0] == runs[1] != runs[2]
    assert list(runs[0]) == ["fused"]


def _by_hand() -> Evaluation:
    """Four rows, two regimes. rgb has all, infrared rows 0 and 1, depth rows 2 and 3."""
    nan = np.nan
    right = {
        "depth": np.array([nan, nan, 0.0, 1.0]),
        "fused": np.array([1.0, 0.0, 1.0, 1.0]),
        "rgb": np.array([0.0, 1.0, 0.0, 0.0]),
        "infrared": np.array([1.0, 1.0, nan, nan]),
    }
    heldout = HeldOut(
        ids=("a", "b", "c", "d"),
        regimes=("redundant", "complementary", "redundant", "complementary"),
        questions=("?",) * 4,
        answers=("red",) * 4,
        sources=(("rgb", "infrared"),) * 2 + (("rgb", "depth"),) * 2,
        images=((),) * 4,
        views={},
    )
    ones = {view: np.where(np.isnan(values), nan, 1.0) for view, values in right.items()}
    return Evaluation(heldout, {view: (None,) * 4 for view in right}, ones, right, ones)


def test_accuracies_and_information_gain_by_hand() -> None:
    result = _by_hand()
    assert result.regimes == ("complementary", "redundant")
    assert result.sources == ("rgb", "infrared", "depth")
    assert result.accuracy() == 0.75
    assert result.accuracy("rgb") == 0.25
    assert (result.accuracy("infrared"), result.accuracy("depth")) == (1.0, 0.5)
    assert result.accuracy("fused", "complementary") == 0.5
    assert result.accuracy("depth", "redundant") == 0.0
    # Rows: fused - mean of the row's sources = 1 - 1/2, 0 - 1, 1 - 0, 1 - 1/2.
    assert result.information_gain() == pytest.approx((0.5 - 1 + 1 + 0.5) / 4)
    assert result.information_gain("redundant") == pytest.approx(0.75)
    assert result.mono_accuracy() == pytest.approx((0.5 + 1 + 0 + 0.5) / 4)
    assert np.isnan(result.accuracy("rgb", "dominant"))


def test_an_answer_must_be_exact_formatted_and_ended(
    toy_folder: Path, heldout: HeldOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_mars.toy import evaluate as module

    truth = heldout.answers[0]
    outcomes = [
        (f"<think>x</think><answer>{truth}</answer>", True),
        (f"<think>x</think><answer>{heldout.answers[1]}</answer>", False),
        (heldout.answers[2], True),
        ("<think>x</think><answer>purple</answer>", True),
    ]
    monkeypatch.setattr(module, "_answer", lambda *_: outcomes)
    four = read_heldout(toy_folder / "heldout.parquet", limit=4)
    result = evaluate(toy_folder / "model", four, views=["fused"])
    assert result.right["fused"].tolist() == [1, 0, 0, 0]
    assert result.formatted["fused"].tolist() == [1, 0, 0, 1]
    assert result.ended["fused"].tolist() == [1, 0, 1, 1]
    assert parse_answer(outcomes[1][0]) == heldout.answers[1]


def test_an_unknown_view_is_refused(toy_folder: Path, heldout: HeldOut) -> None:
    with pytest.raises(ValueError, match=r"no row has the view 'thermal'; the rows have \['depth', 'fused'"):
        evaluate(toy_folder / "model", heldout, views=["fused", "thermal"])


def test_rows_that_are_not_the_toys_are_refused(toy_folder: Path, tmp_path: Path) -> None:
    rows = pq.read_table(toy_folder / "heldout.parquet").to_pylist()
    for row in rows:
        del row["extra_info"]["regime"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other.parquet, row 0: extra_info.regime is missing"):
        read_heldout(tmp_path / "other.parquet")
    pq.write_table(pa.Table.from_pylist(rows).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="no rows to evaluate"):
        read_heldout(tmp_path / "empty.parquet")


def test_a_folder_without_a_model_or_with_another_is_refused(tmp_path: Path, heldout: HeldOut) -> None:
    with pytest.raises(ValueError, match="no model there"):
        evaluate(tmp_path, heldout)


def test_pictures_of_another_size_are_refused(toy_folder: Path, tmp_path: Path) -> None:
    rows = pq.read_table(toy_folder / "heldout.parquet").to_pylist()[:1]
    Image.new("RGB", (84, 56)).save(tmp_path / "wide.png")
    rows[0]["images"][0]["image"] = str(tmp_path / "wide.png")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "wide.parquet")
    with pytest.raises(ValueError, match=r"wide.png: 84x56 pixels; .* 56x56"):
        evaluate(toy_folder / "model", read_heldout(tmp_path / "wide.parquet"))


def test_the_latest_checkpoint_with_a_model_is_found(tmp_path: Path) -> None:
    for step, weights in ((9, True), (20, True), (30, True), (100, False)):
        folder = tmp_path / f"global_step_{step}" / "actor" / "huggingface"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({}))
        if weights:
            (folder / "model.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path) == tmp_path / "global_step_30" / "actor" / "huggingface"
    for weights_file in tmp_path.rglob("*.safetensors"):
        weights_file.unlink()
    with pytest.raises(ValueError, match=r"needs `hf_model`.*steps saved: \[9, 20, 30, 100\]"):
        latest_checkpoint(tmp_path)
