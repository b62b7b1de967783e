"""Validation with each source alone (``algorithm.probe.validate``): sessions, metrics, and no cost where it is off."""

import asyncio
from types import SimpleNamespace

import pytest
import verl  # noqa: F401  first: it loads the plugin
from verl.trainer.ppo.v1 import PPOTrainer

from verl_mars import _compat
from verl_mars.errors import UserError
from verl_mars.methods import METHODS, Method
from verl_mars.preflight.configuration import config_faults
from verl_mars.preflight.doctor import compose_recipe
from verl_mars.rollout.validation import ProbeSettings
from verl_mars.rollout.worker import MarsAgentLoopWorker
from verl_mars.rows import ANCHOR_DETAILS, VIEW
from verl_mars.trainer.modes import MarsTrainerSync
from verl_mars.trainer.validation import validation_metrics

SOURCES = [{"name": name, "images": [i], "prompt": None, "ground_truth": None} for i, name in enumerate(("rgb", "ir"))]


def prompt(sources=SOURCES):
    parts = [{"type": "image", "image": f"{i}.png"} for i in range(2)] + [{"type": "text", "text": "?"}]
    row = {"uid": "u", "index": 0, "raw_prompt": [{"role": "user", "content": parts}], "reward_model": {}}
    return row | ({} if sources is None else {"sources": sources})


def anchors(**accuracy):
    return [{"source": name, "reward": value, "acc": value, "response": None} for name, value in accuracy.items()]


@pytest.fixture
def rolled_out(monkeypatch):
    """A function that validates a prompt, and returns each session's view, sampling and images, and its details."""

    def run(method, validate, row):
        asked, details = [], {}
        base = _compat.agent_loop_worker_class()

        async def run_prompt(self, prompt, sampling_params, trajectory, trace=False):
            await self._run_agent_loop(dict(sampling_params), trajectory, session_id=0, **prompt)

        async def agent_loop(self, sampling_params, trajectory, **row):
            images = [part["image"] for part in row["raw_prompt"][0]["content"] if part["type"] == "image"]
            asked.append((row.get(VIEW, "fused"), sampling_params["temperature"], images))
            output = SimpleNamespace(extra_fields={}, response_ids=[1], reward_score=None)
            if VIEW in row:
                return await self._score_mono_session([output], row)
            await self._compute_score([output], row)
            details.update(output.extra_fields["reward_extra_info"])

        async def score(self, outputs, kwargs):
            outputs[-1].reward_score = 0.9
            outputs[-1].extra_fields["reward_extra_info"] = {"acc": 1.0}

        monkeypatch.setattr(base, "_run_prompt", run_prompt)
        monkeypatch.setattr(base, "_run_agent_loop", agent_loop)
        monkeypatch.setattr(base, "_compute_score", score)
        monkeypatch.setattr(MarsAgentLoopWorker, "ask_reward_workers", lambda self: None)
        worker = MarsAgentLoopWorker.__new__(MarsAgentLoopWorker)
        worker.method, worker.running_prompts, worker.seed_key = method, {}, None
        worker.probing = ProbeSettings.of({"probe": {"validate": validate}})
        worker.config = SimpleNamespace(
            data=SimpleNamespace(max_response_length=16), trainer=SimpleNamespace(total_training_steps=1)
        )
        asyncio.run(worker._run_prompt(row, {"temperature": 0.7}, {"validate": True, "step": 0}))
        return asked, details

    return run


@pytest.mark.parametrize("method", [Method, *(METHODS[name] for name in METHODS)])
def test_each_source_alone_is_asked_too_for_every_method(rolled_out, method):
    asked, details = rolled_out(method(), True, prompt())
    assert sorted(asked) == [
        ("fused", 0.7, ["0.png", "1.png"]),
        ("mono(ir)", 0.7, ["1.png", "1.png"]),
        ("mono(rgb)", 0.7, ["0.png", "0.png"]),
    ]
    assert details[ANCHOR_DETAILS] == [
        {"source": name, "reward": 0.9, "acc": 1.0, "response": None} for name in ("rgb", "ir")
    ]


@pytest.mark.parametrize("method", [Method, METHODS["mars"]])
def test_off_it_costs_no_session(rolled_out, method):
    asked, details = rolled_out(method(), False, prompt())
    assert [view for view, *_ in asked] == ["fused"] and ANCHOR_DETAILS not in details


def test_a_prompt_without_sources_is_validated_and_counted(rolled_out):
    asked, details = rolled_out(Method(), True, prompt(None))
    assert len(asked) == 1
    assert details[ANCHOR_DETAILS] == [{"source": "unknown", "reward": None, "acc": None, "response": None}]


def test_the_figures_by_hand():
    """Prompts a, b of one data set, c of another; d has one source; one session of e failed."""
    rows = [
        ("one", "a", 1.0, anchors(rgb=0.0, ir=0.0)),
        ("one", "a", 1.0, anchors(rgb=0.0, ir=0.0)),
        ("one", "b", 0.0, anchors(rgb=1.0, ir=0.0)),
        ("two", "c", 1.0, anchors(rgb=1.0, ir=1.0)),
        ("two", "d", 1.0, anchors(rgb=None)),
        ("two", "e", 0.0, anchors(rgb=1.0, ir=None)),
    ]
    names, uids, accuracy, entries = zip(*rows, strict=True)
    details = {"reward": [0.0] * 6, "acc": list(accuracy), ANCHOR_DETAILS: list(entries)}
    assert validation_metrics(names, uids, details) == pytest.approx(
        {
            "val-mars/missing_anchors": 1.0,
            "val-mars/acc/fused": 0.6,
            "val-mars/acc/rgb": 0.75,
            "val-mars/acc/ir": 1 / 3,
            "val-mars/info_gain": (1.0 - 0.5 + 0.0) / 3,
            "val-mars/interference/one": 0.5,
            "val-mars/interference/two": 0.0,
        }
    )


def test_rewards_stand_in_where_there_is_no_accuracy():
    entries = [{"source": name, "reward": 0.25, "acc": None, "response": None} for name in ("rgb", "ir")]
    found = validation_metrics(["one"], ["a"], {"reward": [2.0], ANCHOR_DETAILS: [entries]})
    assert found["val-mars/info_gain"] == 1.75 and found["val-mars/reward/rgb"] == 0.25
    assert not any("interference" in name or "/acc/" in name for name in found)


@pytest.mark.parametrize("on", [True, False])
def test_verl_reports_what_it_did(monkeypatch, on):
    """The lists of anchors never reach verl's own figures."""
    given = {}

    def update(self, data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts=None):
        given.update(reward_extra_infos_dict)
        return {"val-core/one/acc/mean@1": 1.0}

    monkeypatch.setattr(PPOTrainer, "_val_metrics_update", update)
    details = {"reward": [1.0], "acc": [1.0], **({ANCHOR_DETAILS: [anchors(rgb=0.0, ir=1.0)]} if on else {})}
    trainer = MarsTrainerSync.__new__(MarsTrainerSync)
    metrics = trainer._val_metrics_update(["one"], ["a"], details, [2])
    assert set(given) == {"reward", "acc"} and metrics["val-core/one/acc/mean@1"] == 1.0
    assert metrics.get("val-mars/info_gain") == (0.5 if on else None)


def test_settings_and_modes_that_cannot_work_are_refused():
    faults = list(config_faults(compose_recipe("toy_grpo", ["algorithm.probe.validate=true"])))
    assert any("algorithm.probe.validate = True: the trainer mode 'sync' does not know it" in fault for fault in faults)
    mine = ["algorithm.probe.validate=true", "algorithm.probe.see=8", "trainer.v1.trainer_mode=mars_sync"]
    assert list(config_faults(compose_recipe("toy_grpo", mine))) == []
    apart = ["algorithm.probe.see=8", "trainer.v1.trainer_mode=mars_separate_async"]
    faults = list(config_faults(compose_recipe("toy_grpo", apart)))
    assert any("ask `verl-mars doctor --see` before the run" in fault for fault in faults)
    with pytest.raises(UserError, match=r"algorithm\.probe\.validat: unknown key; did you mean 'validate'"):
        ProbeSettings.of({"probe": {"validat": True}})
