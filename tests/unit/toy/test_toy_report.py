import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

import verl_mars.recipes
from verl_mars.toy import pictures, world
from verl_mars.toy.evaluate import Evaluation, evaluate, read_heldout
from verl_mars.toy.report import Run, summarize, table, write_summary
from verl_mars.toy.runs import Metrics, read_metrics

RUN = Run(seed=3, track="default", algorithm="mars", steps=4, seconds={"prepare": 1.26, "train": 2.0})


@pytest.fixture(scope="module")
def before(toy_folder: Path) -> Evaluation:
    return evaluate(toy_folder / "model", read_heldout(toy_folder / "heldout.parquet"))


@pytest.fixture(scope="module")
def after(before: Evaluation) -> Evaluation:
    """As if training had taught the right answer to everything fused."""
    texts = tuple(f"<think>x</think><answer>{answer}</answer>" for answer in before.heldout.answers)
    ones = np.ones(len(texts))
    return replace(
        before,
        responses={**before.responses, "fused": texts},
        right={**before.right, "fused": ones},
        formatted={**before.formatted, "fused": ones},
        ended={**before.ended, "fused": ones},
    )


@pytest.fixture
def metrics() -> Metrics:
    def step(number: int) -> dict[str, float]:
        sources = {"rgb": 0.4, "depth": 0.6, "infrared": 0.7}
        data = {"critic/score/mean": 0.5 + number / 20, "mars/fused_score": 0.5 + number / 20}
        data |= {"mars/info_gain": number / 10, "mars/interference_groups": 0.4, "mars/rescued_groups": 0.2}
        for name, score in sources.items():
            data |= {f"mars/anchor_score/{name}": score, f"mars/info_gain/{name}": 0.5 + number / 20 - score}
        return data

    return Metrics({number: step(number) for number in range(1, 9)})


def test_metrics_are_read_by_step_and_merged(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 2, "data": {"a": 1}},
        {"step": 1, "data": {"a": 3.5, "note": "text"}},
        {"step": 2, "data": {"b": 2}},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = read_metrics(file)
    assert metrics.steps == {1: {"a": 3.5}, 2: {"a": 1.0, "b": 2.0}}
    assert metrics.series("a") == ([1, 2], [3.5, 1.0])
    assert metrics.series("b") == ([2], [2.0])
    assert metrics.series("c") == ([], [])


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "data": {"a": 1}}\n{"step": 2, "da')
    assert read_metrics(file, partial=True).steps == {1: {"a": 1.0}}
    with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
        read_metrics(file)


@pytest.mark.parametrize(
    "line", ["nonsense", "3", '{"step": 1}', '{"step": null, "data": {}}', '{"step": 1, "data": 2}']
)
def test_a_line_that_is_no_metrics_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "data": {}}\n' + line + "\n")
    with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
        read_metrics(file, partial=True)


def test_the_summary_has_what_is_promised(
    before: Evaluation, after: Evaluation, metrics: Metrics, tmp_path: Path
) -> None:
    summary = summarize(RUN, before, after, metrics)
    write_summary(summary, tmp_path / "summary.json")
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read == summary
    assert read["accuracy_before"] == round(before.accuracy(), 4)
    assert read["accuracy_after"] == 1.0
    assert list(read["per_regime"]) == [r for r in world.REGIMES if r in before.heldout.regimes]
    for regime, values in read["per_regime"].items():
        assert values["before"] == round(before.accuracy("fused", regime), 4)
        assert values["after"] == 1.0
        assert values["rows"] == before.heldout.regimes.count(regime)
    assert list(read["per_source"]) == ["rgb", "infrared", "depth"]
    gain = read["information_gain"]
    assert gain["after"] - gain["before"] == pytest.approx(1 - before.accuracy(), abs=1e-3)
    assert (read["seconds"], read["seconds_of"]) == (3.3, {"prepare": 1.3, "train": 2.0})
    assert (read["seed"], read["track"], read["algorithm"], read["steps"]) == (3, "default", "mars", 4)
    assert read["training"]["mars/info_gain"] == {"first_steps": 0.1, "last_steps": 0.8}


def test_a_mean_over_nothing_is_null_in_the_summary(before: Evaluation, metrics: Metrics) -> None:
    """A regime whose rows all lack one source."""
    regime = before.heldout.regimes[0]
    rows = before.rows(regime)
    right = {**before.right, "depth": np.where(rows, np.nan, before.right["depth"])}
    summary = summarize(RUN, replace(before, right=right), before, metrics)
    assert summary["per_regime"][regime]["mono"]["depth"]["before"] is None


def test_the_table_fits_eighty_columns_and_says_everything(before: Evaluation, after: Evaluation) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(table(before, after))
    text = console.export_text()
    assert "…" not in text
    for word in ("fused", "rgb", "infrared", "depth", "gain", "overall", *before.regimes):
        assert word in text
    overall = next(line for line in text.splitlines() if "overall" in line)
    assert f"{100 * before.accuracy():.1f}→100 " in overall


def test_rewards_on_the_sheet_are_those_of_the_recipe(before: Evaluation, after: Evaluation) -> None:
    from importlib.resources import files

    recipe = yaml.safe_load((files(verl_mars.recipes) / "dataset" / "toy.yaml").read_text())
    weights = {key: recipe["reward"]["reward_kwargs"][key] for key in pictures.REWARD_WEIGHTS}
    assert weights == pictures.REWARD_WEIGHTS
    assert pictures._reward(after, "fused", 0) == pytest.approx(1.0)
    answer = replace(after, responses={"fused": ("<think>x</think><answer>wrong</answer>",)})
    assert pictures._reward(answer, "fused", 0) == pytest.approx(0.1)
    cut = replace(answer, ended={"fused": np.zeros(1)})
    assert pictures._reward(cut, "fused", 0) == pytest.approx(0.0)


def _colors(file: Path) -> set[tuple[int, ...]]:
    with Image.open(file) as picture:
        found = picture.convert("RGB").getcolors(1 << 24)
    return {color for _, color in found or []}


def _rgb(code: str) -> tuple[int, ...]:
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.slow
def test_the_curve_shows_every_source(before: Evaluation, after: Evaluation, metrics: Metrics, tmp_path: Path) -> None:
    pictures.draw_curve(metrics, before, after, "MARS", tmp_path / "mars.png")
    colors = _colors(tmp_path / "mars.png")
    assert {_rgb(pictures.COLOR_OF[name]) for name in ("fused", "rgb", "infrared", "depth")} <= colors
    assert {_rgb(pictures.RIGHT), _rgb(pictures.WRONG)} <= colors


def test_a_run_without_anchors_has_a_curve_of_its_own(
    before: Evaluation, after: Evaluation, metrics: Metrics, tmp_path: Path
) -> None:
    plain = Metrics({step: {"critic/score/mean": data["critic/score/mean"]} for step, data in metrics.steps.items()})
    pictures.draw_curve(plain, before, after, "GRPO", tmp_path / "grpo.png")
    pictures.draw_curve(metrics, before, after, "MARS", tmp_path / "mars.png")
    with Image.open(tmp_path / "grpo.png") as low, Image.open(tmp_path / "mars.png") as high:
        assert low.height < 0.7 * high.height
    assert _rgb(pictures.COLOR_OF["rgb"]) not in _colors(tmp_path / "grpo.png")


def test_the_sheet_shows_the_pictures_themselves(before: Evaluation, after: Evaluation, tmp_path: Path) -> None:
    pictures.draw_samples(before, after, tmp_path / "samples.png")
    row = next(iter(pictures._choose(before, after, 2)))
    with Image.open(tmp_path / "samples.png") as sheet, Image.open(before.heldout.images[row][0]) as picture:
        left, top, size = pictures._MARGIN, pictures._HEAD + 18, pictures._PICTURE
        pasted = sheet.crop((left, top, left + size, top + size)).resize((56, 56), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(np.asarray(pasted), np.asarray(picture))


def test_samples_are_the_first_changed_row_and_the_first_other_of_each_regime(
    before: Evaluation, after: Evaluation
) -> None:
    chosen = list(pictures._choose(before, after, 2))
    regimes = [before.heldout.regimes[row] for row in chosen]
    assert regimes == sorted(regimes, key=world.REGIMES.index) and len(set(chosen)) == len(chosen)
    unchanged = list(pictures._choose(before, before, 1))
    assert unchanged == [before.heldout.regimes.index(regime) for regime in before.regimes]


@pytest.mark.parametrize(
    ("values", "gap"), [([0.5, 0.5, 0.1], 0.2), ([1.0], 0.1), ([0.0, 0.01, 0.02, 0.03], 0.05), ([], 1)]
)
def test_labels_are_moved_apart_in_their_order(values: list[float], gap: float) -> None:
    placed: Any = pictures._spread(values, gap)
    ordered = np.array(placed)[np.argsort(values, kind="stable")]
    assert (np.diff(ordered) >= gap - 1e-9).all()
    assert len(placed) == len(values)
