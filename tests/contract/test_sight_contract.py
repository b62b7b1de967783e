"""Does the model see its images: what two greedy answers show, who is refused, and how a row is asked."""

import asyncio
import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import verl  # noqa: F401  first: it loads the plugin
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner
from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars import _compat
from verl_mars.cli import app
from verl_mars.liveness.processes import EndsWithDeadProcesses
from verl_mars.preflight.see import findings
from verl_mars.rollout.validation import MARK
from verl_mars.rollout.worker import MarsAgentLoopWorker
from verl_mars.rows import LOOK
from verl_mars.trainer.modes import MarsTrainerSync
from verl_mars.trainer.sight import Answer, LooksFirst, Sight, SightFound, difference, rows_with_images, sight_of

LOG = math.log


def test_the_same_tokens_show_how_far_they_are_apart():
    assert difference([(1, 2), (1, 2)], [(LOG(0.5), LOG(0.9)), (LOG(0.5), LOG(0.3))]) == pytest.approx(LOG(3))


def test_tokens_that_part_bound_the_difference():
    """0.9 on one token, and 0.8 on another without the images: at most 0.2 is left for the first."""
    assert difference([(1, 7), (2, 7)], [(LOG(0.9), 0.0), (LOG(0.8), -9.0)]) == pytest.approx(LOG(0.8 / 0.1))


distributions = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3)


@given(st.lists(distributions, min_size=1, max_size=4), st.data())
def test_a_model_without_pixels_shows_no_difference(weights, data):
    """Any two answers, drawn from the same distributions: sampled or greedy."""
    chances = [[value / sum(row) for value in row] for row in weights]
    answers = [[data.draw(st.integers(0, 2)) for _ in chances] for _ in range(2)]
    log_probs = [[LOG(row[token]) for row, token in zip(chances, answer, strict=True)] for answer in answers]
    assert difference(answers, log_probs) <= 1e-9


@given(distributions, distributions, st.integers(0, 2), st.integers(0, 2))
def test_it_never_shows_more_than_there_is(first, second, a, b):
    first, second = ([value / sum(row) for value in row] for row in (first, second))
    truth = max(abs(LOG(x) - LOG(y)) for x, y in zip(first, second, strict=True))
    assert difference([(a,), (b,)], [(LOG(first[a]),), (LOG(second[b]),)]) <= truth + 1e-9


def pair(engine, trainer, tokens=((1, 2), (1, 3))):
    """A row that is answered with and without its images; log-probs (fused, blank) of each side."""
    return tuple(Answer(tokens[view], engine[view], trainer[view]) for view in range(2))


SEES = ((-0.1, -0.2), (-0.6, -0.3))
BLIND = ((-0.1, -2.0), (-0.1, -0.4))
"""The same for the first token; the second is one of two, with 0.14 and 0.67."""


@pytest.mark.parametrize(
    ("engine", "trainer", "sentences"),
    [
        (SEES, SEES, []),
        (BLIND, SEES, ["the rollout engine does not see", "disagree", "disagree"]),
        (SEES, BLIND, ["the trainer does not see", "disagree"]),
        (BLIND, BLIND, ["the rollout engine does not see", "the trainer does not see"]),
        (SEES, ((-0.1, -0.9), (-0.6, -0.3)), ["with their images: by 0.3500 nats"]),
        (SEES, ((-0.1, -0.2), (math.nan, -0.3)), ["with grey images"]),
    ],
)
def test_who_is_refused(engine, trainer, sentences):
    faults = sight_of([pair(engine, trainer)] * 8).faults()
    assert all(any(sentence in fault for fault in faults) for sentence in sentences)
    assert bool(faults) == bool(sentences)


def test_rounding_is_no_sight():
    """Two passes of a blind trainer in bfloat16 differ too; its own second pass says by how much."""
    noisy = [
        Answer((1, 2), (-0.10, -0.20), (-0.10, -0.23), (-0.12, -0.20)),
        Answer((1, 2), (-0.10, -0.20), (-0.11, -0.20), (-0.10, -0.22)),
    ]
    sight = sight_of([tuple(noisy)] * 8)
    assert sight.rounding == pytest.approx(0.025) and sight.trainer_difference == pytest.approx(0.03)
    assert any("the trainer does not see the images" in fault for fault in sight.faults())
    exact = [replace(answer, again=answer.trainer) for answer in noisy]
    assert not any("the trainer" in fault.partition("does not see")[0] for fault in sight_of([tuple(exact)]).faults())


def test_half_of_the_rows_decide():
    blind, sees = pair(BLIND, BLIND), pair(SEES, SEES)
    assert sight_of([sees] * 5 + [blind] * 3).faults() == []
    assert len(sight_of([sees] * 3 + [blind] * 5).faults()) == 2
    with pytest.raises(ValueError, match="nothing is known"):
        sight_of([])


# ------------------------------------------------------------ a run


@pytest.fixture
def trainer(monkeypatch):
    """A function: a trainer of a run with settings, whose look finds a model that sees, or not."""
    trained = []
    monkeypatch.setattr(PPOTrainer, "fit", lambda self, loops: trained.append(loops))

    def make(sees, **settings):
        made = MarsTrainerSync.__new__(MarsTrainerSync)
        made.config = SimpleNamespace(algorithm={"probe": settings})
        made._look = lambda rows: sight_of([pair(*([SEES if sees else BLIND] * 2))] * rows)
        return made, trained

    return make


def test_a_model_that_sees_is_trained(trainer, capsys):
    made, trained = trainer(True, see=8)
    LooksFirst.fit(made, "loops")
    assert trained == ["loops"] and MARK in capsys.readouterr().out


def test_a_model_that_does_not_is_refused(trainer):
    made, trained = trainer(False, see=8)
    with pytest.raises(ValueError, match="refuses this run:\n.*rollout engine does not see.*\n.*trainer does not see"):
        LooksFirst.fit(made, "loops")
    assert trained == []


def test_off_nothing_is_asked(trainer):
    made, trained = trainer(False)
    LooksFirst.fit(made, "loops")
    assert trained == ["loops"]


@pytest.mark.parametrize("sees", [True, False])
def test_the_doctor_reads_what_the_run_ends_with(trainer, sees):
    made, trained = trainer(sees, see=8, see_only=True)
    with pytest.raises(SightFound) as raised:
        LooksFirst.fit(made, "loops")
    assert trained == []
    state = findings(f"(TaskRunner pid=1) noise\nverl_mars.trainer.sight.SightFound: {raised.value}\nmore")
    starts = ("the rollout engine does not see", "the trainer does not see") if not sees else ()
    assert len(state.faults) == len(starts) and all(map(str.startswith, state.faults, starts))
    assert f"move log-probs by {1.408 if sees else 0:.3f} nats in the rollout engine" in state.notes[0]


def test_a_process_that_dies_while_it_looks_is_explained():
    order = MarsTrainerSync.__mro__
    assert order.index(EndsWithDeadProcesses) < order.index(LooksFirst) < order.index(PPOTrainer)


def test_a_run_that_ended_early_is_a_fault():
    (fault,) = findings("first\n" + "line\n" * 50 + "OutOfMemoryError: so", "").faults
    assert "before the model was asked" in fault and fault.endswith("so") and "first" not in fault


def test_see_needs_a_recipe():
    result = CliRunner().invoke(app, ["doctor", "--see"])
    assert result.exit_code != 0 and "name it with --config-name" in result.output


# ------------------------------------------------------------ a row


def rows(*kinds):
    """Rows with these kinds of content."""
    contents = [[{"type": kind} for kind in of_row] for of_row in kinds]
    return [{"raw_prompt": [{"content": "be brief"}, {"content": content}]} for content in contents]


def test_rows_are_chosen_from_all_over_the_data():
    image, text, video = ("image", "text"), ("text",), ("image", "video")
    assert rows_with_images(rows(*[image] * 12), 3) == [0, 4, 8]
    assert rows_with_images(rows(text, image, video, image), 3) == [1, 3]
    with pytest.raises(ValueError, match="no row of data.train_files has images"):
        rows_with_images(rows(text, video), 3)


@pytest.mark.parametrize("look", ["fused", "blank"])
def test_a_row_is_asked_greedily_with_its_images_or_grey_ones(monkeypatch, look):
    asked = {}

    async def run_prompt(self, prompt, sampling_params, trajectory, trace=False):
        asked.update(prompt=prompt, params=sampling_params)

    async def load(self, messages):
        return [Image.new("RGB", (30, 20), "red")]

    monkeypatch.setattr(_compat.agent_loop_worker_class(), "_run_prompt", run_prompt)
    monkeypatch.setattr(MarsAgentLoopWorker, "ask_reward_workers", lambda self: None)
    monkeypatch.setattr(MarsAgentLoopWorker, "_load_images", load)
    worker = MarsAgentLoopWorker.__new__(MarsAgentLoopWorker)
    worker.config = SimpleNamespace(data=SimpleNamespace(max_response_length=16))
    content = [{"type": "image", "image": "red.png"}, {"type": "text", "text": "?"}]
    row = {"uid": "u", "raw_prompt": [{"role": "user", "content": content}], LOOK: look}
    asyncio.run(worker._run_prompt(row, {"temperature": 1.0, "logprobs": False}, {"validate": True}))
    assert asked["params"] == {"temperature": 0, "top_p": 1.0, "top_k": -1, "logprobs": True, "max_tokens": 16}
    assert LOOK not in asked["prompt"] and asked["prompt"]["__rollout_n__"] == 1
    shown = asked["prompt"]["raw_prompt"][0]["content"][0]["image"]
    if look == "fused":
        assert shown == "red.png"
    else:
        assert shown.size == (30, 20) and shown.getcolors() == [(600, (128, 128, 128))]


def test_the_findings_are_json():
    assert json.loads(json.dumps(asdict(Sight(8, 1.0, 1.0, 0.0, 0.0)))) == asdict(Sight(8, 1.0, 1.0, 0.0, 0.0))
