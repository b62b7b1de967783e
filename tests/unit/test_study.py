"""The study: its statistics by hand, its page from its raw results, its arms against the estimators of a run."""

import json
import re
import subprocess
import sys
from concurrent.futures import Future

import numpy as np
import pytest
import study.__main__
from study import analysis, in_verl, page, runs, tables
from study.__main__ import main
from study.arms import ARMS, TRACKS, Key

from verl_mars.preflight.doctor import compose_recipe
from verl_mars.toy import world
from verl_mars.toy.prepare import ToyPaths
from verl_mars.toy.report import STUDY, other_seeds
from verl_mars.toy.rows import make_row
from verl_mars.views import Mono, sources_of_row


def run(arm, seed, accuracies, track="interference", warm_start=0):
    points = [
        {"step": 20 * i, "tokens": 20 * i, "accuracy": value, "by_regime": {}} for i, value in enumerate(accuracies)
    ]
    return {"key": Key(track, warm_start, arm, seed), "evaluations": points}


def test_the_measures_leave_out_the_warm_start():
    assert analysis.area(run("mars", 0, [0.1, 0.5, 0.7])) == pytest.approx(60)
    assert analysis.final(run("mars", 0, [0.1, 0.5, 0.7])) == pytest.approx(70)


def test_accuracy_at_a_number_of_tokens_by_hand():
    made = run("mars", 0, [0.1, 0.5, 0.7])
    for point, tokens in zip(made["evaluations"], [0, 100, 300], strict=True):
        point["tokens"] = tokens
    assert analysis.at_tokens(150)(made, None) == pytest.approx(55)
    assert analysis.at_tokens(300)(made, None) == pytest.approx(70)


def test_an_interval_by_hand():
    # 1, 2, 3: standard error 1 / sqrt 3, t(2) = 4.3027; mean / error = 3.4641, p = .0742
    mean, low, high, p = analysis.interval([np.array([1.0, 2.0, 3.0])])
    assert (mean, low, high, p) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841, 0.0742), abs=1e-4)


def test_warm_starts_are_the_units_where_there_are_several():
    many = analysis.interval([np.array([0.0, 2.0]), np.array([2.0, 2.0]), np.array([3.0, 3.0])])
    assert many == pytest.approx(analysis.interval([np.array([1.0, 2.0, 3.0])]))


def test_verl_against_the_loop_by_hand():
    """50, 60 against 40, 60: standard error sqrt(50/2 + 200/2) = 11.18, Welch's 1.47 degrees of freedom, t = 6.188."""
    loop = [run("mars", seed, [0, value]) for seed, value in enumerate([0.4, 0.6])]
    verl = [run("mars", seed, [0, value]) for seed, value in enumerate([0.5, 0.6])]
    row = tables.in_verl_table([*loop, run("grpo", 0, [0, 1])], verl).splitlines()[2:]
    assert row == [
        "| interference | mars | 2, 2 | 50.0 (sd 14.1) | 55.0 (sd 7.1) | +5.0 [-64.2, +74.2] "
        "| 50.0 (sd 14.1) | 55.0 (sd 7.1) | +5.0 [-64.2, +74.2] |"
    ]


def test_means_of_a_training_by_hand():
    def trained(seed, gains):
        made = run("mars", seed, [0] * (len(gains) + 1))
        for point, gain in zip(made["evaluations"][1:], gains, strict=True):
            point["training"] = {"reward": 1.0, "info_gain": gain}
        return made

    loop, verl = [trained(0, [0.1, 0.3]), trained(1, [0.3, 0.5])], [trained(0, [0.0, 0.0]), trained(1, [0.1, 0.3])]
    row = tables.in_verl_means_table(loop, verl).splitlines()[2]
    same = "1.000 (sd 0.000) | 1.000 (sd 0.000)"
    assert row == f"| interference | mars | {same} | 0.300 (sd 0.141) | 0.100 (sd 0.141) |  |  |  |  |"


def test_other_views_by_hand():
    """The mean over runs of the first and the last stretch of a training; what a stretch lacks is not a number."""
    runs = [run("pgpo", seed, [0, 0, 0]) for seed in range(2)]
    for made, first, last in zip(runs, [0.1, 0.3], [0.4, 0.6], strict=True):
        made["evaluations"][1]["training"] = {"reward": 1.0, "pgpo/dependency_mean": first, "pgpo/weight_max": 2.0}
        made["evaluations"][2]["training"] = {"reward": 1.0, "pgpo/dependency_mean": last}
    assert tables.views_table(runs).splitlines()[2:] == [
        "| interference | pgpo | `pgpo/dependency_mean` | 0.2 | 0.5 |",
        "| interference | pgpo | `pgpo/weight_max` | 2 | nan |",
    ]


def test_arms_are_compared_with_their_control_where_both_have_run():
    """One pair has no interval; differences of 10 and 20 have 15 -+ 12.706 x 5."""

    def costing(arm, seed, value, tokens):
        made = run(arm, seed, [0, value])
        made["evaluations"][0]["tokens"], made["evaluations"][1]["tokens"] = 0, tokens
        return made

    runs = [costing("pgpo", 0, 0.5, 200), costing("pgpo_shuffled", 0, 0.4, 100), costing("vogue", 0, 0.9, 100)]
    (row,) = tables.further_table(runs).splitlines()[2:]
    assert row == "| interference | pgpo - pgpo_shuffled | 1 | +10.0 | +10.0 | -15.0 |"
    runs += [costing("pgpo", 1, 0.5, 100), costing("pgpo_shuffled", 1, 0.3, 100)]
    (row,) = tables.further_table(runs).splitlines()[2:]
    spread = "+15.0 [-48.5, +78.5]"
    assert row == f"| interference | pgpo - pgpo_shuffled | 2 | {spread} | {spread} | +2.5 [-219.9, +224.9] |"


def test_warm_starts_by_hand():
    """At the end leads of 10 and 20 from one warm start, of 5 from the other: means of 15 and 5, 10 -+ 12.706 x 5.

    All have 20 halfway, so over the training leads are half of that.
    """
    table = {("grpo", 0): [0.5, 0.5], ("mars", 0): [0.6, 0.7], ("shuffled", 0): [0.6, 0.7]}
    table |= {("grpo", 1): [0.4], ("mars", 1): [0.45], ("shuffled", 1): [0.45]}
    made = [
        run(arm, seed, [0.2 + 0.1 * warm, 0.2, value], warm_start=warm)
        for (arm, warm), values in table.items()
        for seed, value in enumerate(values)
    ]
    training, end = "+7.5 [-24.3, +39.3]", "+15.0 [-48.5, +78.5]"
    training_of_all, end_of_all = "+5.0 [-26.8, +36.8]", "+10.0 [-53.5, +73.5]"
    assert tables.warm_starts_table(made).splitlines()[2:] == [
        f"| 0 | 2 | 20.0 | 35.0 | 42.5 | 42.5 | {training} | +0.0 [+0.0, +0.0] | {end} | {end} |",
        "| 1 | 1 | 30.0 | 30.0 | 32.5 | 32.5 | +2.5 | +0.0 | +5.0 | +5.0 |",
        f"| all | 2, 1 | 25.0 |  |  |  | {training_of_all} | +0.0 [+0.0, +0.0] | {end_of_all} | {end_of_all} |",
    ]


def test_the_best_source_by_hand():
    """Of all scenes the first source is the best, of the conflicting ones the second; early runs have no regimes."""
    made, early = run("grpo", 0, [0.5]), run("mars", 0, [0.9])
    made["evaluations"][-1] |= {"by_regime": {"conflicting": 0.1}, "alone": [0.4, 0.3]}
    early["evaluations"][-1] |= {"by_regime": {"conflicting": 0.2}, "alone": [0.4, 0.3]}
    made["evaluations"][-1]["alone_by_regime"] = [{"conflicting": 0.2}, {"conflicting": 0.7}]
    assert tables.sources_table([made, early]).splitlines()[2:] == [
        "| interference | grpo | 1 | 50.0 | +10.0 | 10.0 | -60.0 |",
        "| interference | mars | 1 | 90.0 | +50.0 | 20.0 |  |",
    ]


def test_arms_are_compared_on_the_first_warm_start():
    """The others have the arms of the primary comparisons alone: means over all would compare different worlds."""

    def made(arm, value, warm_start=0):
        both = [run(arm, seed, [0, value + 0.1 * seed], warm_start=warm_start) for seed in range(2)]
        for one in both:
            for point in one["evaluations"]:
                point |= {"by_regime": dict.fromkeys(world.REGIMES, value), "alone": [0, 0], "training": {}}
        return both

    first = made("grpo", 0.5) + made("mars", 0.6) + made("shuffled", 0.6) + made("pgpo", 0.7)
    others = made("grpo", 0.1, 1) + made("mars", 0.1, 1) + made("shuffled", 0.1, 1)
    expected, found = tables.tables(first, others, first), tables.tables(first + others, others, first)
    assert {name for name in found if found[name] != expected[name]} == {"primary", "warm-starts"}
    forest = page._forest(first + others, "interference")
    warm_starts = {"mars": 1, "mars, 2 warm starts": 2, "shuffled": 1, "shuffled, 2 warm starts": 2, "pgpo": 1}
    assert {label: len(samples) for label, samples in forest.items()} == warm_starts
    assert list(forest) == list(warm_starts)
    elsewhere = page._forest(first + others + made("papo", 0.2, 1), "interference")
    assert "papo" not in elsewhere and len(elsewhere["papo, 1 warm starts"]) == 1


def test_rounding_by_hand():
    here = [run("mars", seed, [0, value, 0.8 + value]) for seed, value in enumerate([0, 0.02, 0.1])]
    there = [run("mars", 0, [0, 0.02, 0.81]), run("mars", 1, [0, 0.02, 0.79]), run("grpo", 0, [0, 1, 1])]
    row = tables.rounding_table(here, there).splitlines()[2:]
    assert row == ["| interference | mars | 2 | 1.5, 1.5 | 2.0, 3.0 | 5.3 |"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--in-verl --arms grpo shuffled mars_pgpo", "no arm shuffled, mars_pgpo with --in-verl; choose from grpo, "),
        ("--in-verl --rounding", "not allowed with"),
    ],
)
def test_what_cannot_run_is_refused_at_once(arguments, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", *arguments.split()])
    with pytest.raises(SystemExit):
        main()
    assert says in capsys.readouterr().err


def test_a_run_of_verl_of_an_arm_of_the_loop_is_refused():
    with pytest.raises(ValueError, match="no arm shuffled with --in-verl"):
        in_verl.run(Key("interference", 0, "shuffled", 0))


def test_a_worker_can_import_a_run():
    """It begins with an empty process: whatever has to be there before transformers must be imported by the run."""
    pytest.importorskip("verl")
    command = [sys.executable, "-W", "ignore", "-c", "import study.runs, study.in_verl"]
    done = subprocess.run(command, cwd=page.PAGE.parents[1] / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_machine_with_another_warm_start_is_told(monkeypatch, tmp_path, capsys):
    """Pairs of runs from different weights would be compared as if they had begun alike."""
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"here")
    monkeypatch.setattr(study.__main__, "prepare", lambda *args, **kwargs: ToyPaths.under(tmp_path))
    recorded = {"key": Key("default", 0, "grpo", 0), "track": "default", "warm_start": 0, "weights": "0123456789ab"}
    monkeypatch.setattr(study.__main__, "read_runs", lambda file: [recorded] if file == study.__main__.RUNS else [])
    monkeypatch.setattr(sys, "argv", "study --arms mars --tracks default --seeds 1".split())
    with pytest.raises(SystemExit):
        main()
    own = runs.digest(weights.parent)
    assert f"({recorded['weights']}) than this machine builds ({own})" in " ".join(capsys.readouterr().err.split())
    study.__main__.build_warm_starts([Key("default", 1, "mars", 0)])  # nothing recorded
    recorded["weights"] = own
    study.__main__.build_warm_starts([Key("default", 0, "mars", 0)])


def test_the_recorded_runs_of_a_warm_start_began_from_the_same_weights():
    found = {}
    for file in (analysis.RUNS, analysis.VERL_RUNS, analysis.ROUNDING_RUNS):
        for row in analysis.read_runs(file):
            found.setdefault((row["track"], row["warm_start"]), set()).add(row["weights"])
    assert found and all(len(each) == 1 for each in found.values()), found


def test_a_failed_run_leaves_the_others(monkeypatch, tmp_path, capsys):
    """One process in place of the pool; seed 1 of three fails."""

    class Here:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, run, key):
            future = Future()
            future.set_exception(RuntimeError("verl ended with 1")) if key.seed == 1 else future.set_result(run(key))
            return future

    monkeypatch.setattr(sys, "argv", "study --in-verl --arms mars --tracks default --seeds 3".split())
    monkeypatch.setattr(study.__main__, "VERL_RUNS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(study.__main__, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(study.__main__, "build_warm_starts", lambda missing: None)
    monkeypatch.setattr(study.__main__, "publish", lambda: "")
    monkeypatch.setattr(study.__main__.in_verl, "run", lambda key: key.describe())
    assert main() == 1
    assert sorted(row["seed"] for row in analysis.read_runs(tmp_path / "runs.jsonl")) == [0, 2]
    err = capsys.readouterr().err
    assert "a run failed: verl ended with 1" in err and "1 of 3 runs failed; the same command runs them again" in err


def test_the_arms_of_verl_are_what_their_recipes_say():
    """The estimator that the study sets is the recipe's own, or GRPO in MARS's recipe; all in one trainer mode."""
    pytest.importorskip("verl")
    for name, arm in ARMS.items():
        if not arm.recipe:
            continue
        own = compose_recipe(arm.recipe).algorithm.adv_estimator
        assert arm.estimator == own or (arm.estimator, arm.recipe) == ("grpo", "toy_mars_grpo"), name


def test_only_common_seeds_are_compared():
    runs = [run("mars", 0, [0, 0.5]), run("grpo", 0, [0, 0.4]), run("mars", 1, [0, 0.9])]
    (found,) = analysis.differences(runs, "interference", "mars", "grpo", analysis.final)
    assert found == pytest.approx([10])


def test_the_page_holds_the_tables_of_the_raw_results():
    text = page.PAGE.read_text(encoding="utf-8")
    runs = analysis.read_runs()
    assert len({row["key"] for row in runs}) == len(runs), "a run stands in the results twice"
    in_verl = analysis.read_runs(analysis.VERL_RUNS)
    assert len({row["key"] for row in in_verl}) == len(in_verl), "a run of verl stands in the results twice"
    rounded = analysis.read_runs(analysis.ROUNDING_RUNS)
    for name, table in tables.tables(runs, in_verl, rounded).items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in text, f"`make study ARGS=--tables` writes {name}"


def test_the_demo_says_what_the_raw_results_say():
    assert json.loads(STUDY.read_text()) == page.seeds(analysis.read_runs()), "`make study ARGS=--tables` writes it"


def test_the_seeds_of_a_track_by_hand(tmp_path):
    runs = [run("grpo", 0, [0.1, 0.5]), run("grpo", 1, [0.1, 0.75]), run("mars", 0, [0.1, 0.6])]
    found = page.seeds([*runs, run("mars", 0, [0, 0], warm_start=1)])
    grpo = {"runs": 2, "mean": 62.5, "least": 50.0, "most": 75.0}
    mars = {"runs": 1, "mean": 60.0, "least": 60.0, "most": 60.0}
    assert found == {"interference": {"20": {"grpo": grpo, "mars": mars}}}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(found))
    sentence = other_seeds("interference", 20, file)
    assert "GRPO 50.0 to 75.0 % (mean 62.5, 2 seeds), MARS 60.0 to 60.0 %" in sentence
    assert other_seeds("interference", 40, file) is other_seeds("default", 20, file) is None


def test_every_arm_is_explained():
    text = page.PAGE.read_text(encoding="utf-8")
    arms = re.search(r"\| arm \| what it is \|\n(.*?)\n\n", text, re.DOTALL)[1]
    assert all(f"`{arm}`" in arms for arm in ARMS) and all(f"`{track}`" in text for track in TRACKS)


def test_a_source_alone_is_shown_as_training_shows_it():
    """The loop repeats the picture under the same text: what the view `repeat` renders."""
    scenes = world.make_scenes(1, 0)
    row = make_row(scenes, 0, "train", ["rgb.png", "other.png"])
    images = iter(row["images"])
    parts = [{"type": "image", **next(images)} for _ in range(2)] + [{"type": "text", "text": scenes.question(0)}]
    row["raw_prompt"] = [{"role": "user", "content": parts}]
    for source, file in zip(sources_of_row(row), ["rgb.png", "other.png"], strict=True):
        shown = Mono(source).render(row)["raw_prompt"][0]["content"]
        assert [part["image"] for part in shown if part["type"] == "image"] == [file, file]
        assert "".join(part["text"] for part in shown if part["type"] == "text").strip() == scenes.question(0)
