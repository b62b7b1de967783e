"""Arms of the study as runs of verl: evaluated as the loop evaluates, on the loop's scenes."""

import pytest
from study import in_verl, runs
from study.arms import TRACKS, Key, Track
from study.loop import evaluate

from verl_mars.toy.evaluate import load

pytestmark = [pytest.mark.integration, pytest.mark.recipes]


def test_two_steps_are_lines_of_the_results(monkeypatch):
    monkeypatch.setitem(TRACKS, "interference", Track(2, every=1))
    found = in_verl.run(Key("interference", 0, "mars", 0))
    assert (found["arm"], found["seed"], found["track_settings"]["steps"]) == ("mars", 0, 2)
    points = found["evaluations"]
    assert [point["step"] for point in points] == [0, 1, 2]
    assert {"reward", "info_gain", "shift_share"} <= points[1]["training"].keys()
    assert points[1]["alone"] == {} and points[2]["alone"].keys() == {"rgb", "infrared", "depth"}
    # What the loop says of the same checkpoint.
    checkpoint, _, heldout = runs.worlds("interference", 0)
    expected = evaluate(load(checkpoint)[0], heldout)
    assert points[0]["accuracy"] == pytest.approx(expected["accuracy"])
    assert points[0]["by_regime"] == pytest.approx(expected["by_regime"])
    assert points[0]["alone_by_regime"]["rgb"] == pytest.approx(expected["alone_by_regime"][0])
    assert points[2]["accuracy"] != points[0]["accuracy"]
