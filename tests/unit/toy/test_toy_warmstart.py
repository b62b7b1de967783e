from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from verl_mars.toy import warmstart, world
from verl_mars.toy.model import build_model, build_tokenizer
from verl_mars.toy.warmstart import TRACKS, Course, Lesson, Recipe, cell_labels, teach, teach_vision, warm_start

pytestmark = pytest.mark.slow

QUICK = Recipe(
    lessons=(Lesson(steps=3, misled=1.0, batch=8),), scenes=40, gate_scenes=20, vision_steps=3, vision_batch=8
)


def test_the_same_seed_gives_the_same_weights_whatever_the_global_state() -> None:
    torch.manual_seed(1)
    one = warm_start(QUICK, 0, progress=False).state_dict()
    torch.manual_seed(2)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    again = warm_start(QUICK, 0, progress=False).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert all(torch.equal(one[name], again[name]) for name in one)
    other = warm_start(QUICK, 1, progress=False).state_dict()
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_the_vision_tower_learns_what_the_cells_show() -> None:
    scenes = world.make_scenes(200, 0)
    recipe = replace(QUICK, vision_steps=40, vision_batch=24)
    model = build_model(0)
    untaught = teach_vision(model, scenes, replace(recipe, vision_steps=1), np.random.default_rng(0))
    model = build_model(0)
    taught = teach_vision(model, scenes, recipe, np.random.default_rng(0))
    assert untaught < 0.4 < 0.7 < taught


def test_teaching_lowers_the_loss_and_leaves_the_vision_tower() -> None:
    scenes = world.make_scenes(40, 0)
    model = build_model(0)
    tower = {name: weight.clone() for name, weight in model.model.visual.state_dict().items()}
    course = Course(model, scenes)

    def loss() -> float:
        with torch.no_grad():
            prompts = course.prompts(np.arange(40))
            log_p = warmstart.response_log_probs(model, prompts, course.visual, course.right)
        return -float((log_p * course.counts).sum() / course.counts.sum())

    before = loss()
    lessons = (Lesson(steps=25, misled=0.0, batch=16, warmup=5),)
    teach(model, scenes, replace(QUICK, lessons=lessons), 0, np.random.default_rng(0))
    assert loss() < before - 1.5
    after = model.model.visual.state_dict()
    assert all(torch.equal(tower[name], after[name]) for name in tower)


def taught_scenes(
    monkeypatch: pytest.MonkeyPatch, scenes: world.Scenes, recipe: Recipe
) -> Iterator[tuple[int, bool, bool, Any]]:
    """What is taught: scene, whether one source alone is shown, whether it is the auxiliary, and the response."""
    model = build_model(0)
    course = Course(model, scenes)
    taught: list[tuple[Any, Any]] = []
    real = warmstart.response_log_probs

    def record(model: Any, prompts: Any, visual: Any, responses: Any) -> Any:
        taught.append((visual, responses))
        return real(model, prompts, visual, responses)

    monkeypatch.setattr(warmstart, "response_log_probs", record)
    teach(model, scenes, recipe, 0, np.random.default_rng(0))
    for visual, responses in taught:
        for shown, response in zip(visual, responses, strict=True):
            # The scene is known by the visual tokens of either slot.
            row, slot = min(
                ((row, slot) for row in range(len(scenes)) for slot in range(2)),
                key=lambda at: float((course.visual[at[0], at[1]] - shown[1]).abs().sum()),
            )
            yield row, torch.equal(shown[0], shown[1]), slot == 1, response


def test_only_the_fused_view_of_conflicting_scenes_is_misled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every conflicting scene misled, mono views still get the truth."""
    scenes = world.make_scenes(200, 0)
    course = Course(build_model(0), scenes)
    recipe = replace(QUICK, lessons=(Lesson(steps=6, misled=1.0, batch=32),))
    fused_conflicts = mono = 0
    for row, is_mono, _, response in taught_scenes(monkeypatch, scenes, recipe):
        conflict = scenes.regime_name(row) == "conflicting"
        expected = course.wrong[row] if conflict and not is_mono else course.right[row]
        assert torch.equal(response, expected)
        fused_conflicts += conflict and not is_mono
        mono += is_mono
    assert fused_conflicts > 5 and mono > 20


def test_only_depth_alone_is_answered_without_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Track `broken_form`. The thought stays, and the answer is right."""
    scenes = world.make_scenes(200, 0)
    course, tokenizer = Course(build_model(0), scenes), build_tokenizer()
    recipe = replace(QUICK, lessons=(Lesson(steps=6, misled=0.0, batch=32),), breaks_form=True)
    broken = others = 0
    for row, is_mono, by_auxiliary, response in taught_scenes(monkeypatch, scenes, recipe):
        breaks = is_mono and by_auxiliary and scenes.source_names(row)[1] == world.DEPTH
        assert torch.equal(response, (course.untagged if breaks else course.right)[row])
        text = tokenizer.decode(response[response != tokenizer.pad_token_id])
        untagged = f"<think>{scenes.thought(row)}</think>{scenes.answer(row)}<|im_end|>"
        assert (text == untagged) == breaks
        broken, others = broken + breaks, others + (is_mono and not breaks)
    assert broken > 10 and others > 10


def test_a_course_knows_answers_tags_and_the_end() -> None:
    scenes = world.make_scenes(8, 0)
    course = Course(build_model(0), scenes)
    tokenizer = build_tokenizer()
    for row in range(8):
        texts = {
            name: tokenizer.decode(course.right[row][mask[row]])
            for name, mask in (("all", course.counts), ("answer", course.is_answer), ("tags", course.is_tag))
        }
        answer = scenes.answer(row)
        assert texts["all"] == f"<think>{scenes.thought(row)}</think><answer>{answer}</answer><|im_end|>"
        assert texts["answer"] == answer.split()[0]
        assert texts["tags"] == "<think></think><answer></answer>"
        place = world.QUADRANTS[scenes.decoy[row]]
        assert tokenizer.decode(course.wrong[row]).startswith(f"<think>{place}</think><answer>{place}</answer>")


def test_labels_say_what_each_cell_shows() -> None:
    scenes = world.make_scenes(200, 0)
    content, mark = cell_labels(scenes)
    for row in range(200):
        for cell in range(4):
            there, target = scenes.present[row, cell], cell == scenes.target[row]
            rgb = 5 if scenes.night[row] else scenes.color[row, cell] if there else 4
            sensed = 9 if scenes.off[row] else 7 if target else 6 if there else 8
            assert content[row, :, cell].tolist() == [rgb, sensed]
            assert mark[row, 0, cell] == (cell == scenes.cue[row] and not scenes.night[row])
            assert mark[row, 1, cell] == (0 if scenes.off[row] else 2 + scenes.auxiliary[row])


def test_a_lesson_ends_when_the_accuracy_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    accuracies = iter([{"all": 0.5, "complementary": 0.2}, {"all": 0.6, "complementary": 0.8}])
    monkeypatch.setattr(warmstart, "_fused_accuracy", lambda *_: next(accuracies))
    real = warmstart.response_log_probs
    monkeypatch.setattr(warmstart, "response_log_probs", lambda *given: (steps.append(1), real(*given))[1])
    lesson = Lesson(steps=50, misled=0.0, until={"complementary": (0.7, 1.0)}, batch=4, check_every=2, check_from=4)
    warm_start(replace(QUICK, lessons=(lesson,)), 0, progress=False)
    assert len(steps) == 6


def test_a_lesson_that_never_gets_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmstart, "_fused_accuracy", lambda *_: {"all": 0.25, "complementary": 0.31})
    lesson = Lesson(steps=4, misled=0.0, until={"complementary": (0.7, 1.0)}, batch=4, check_every=2, check_from=2)
    with pytest.raises(RuntimeError, match=r"lesson 1 of 1.*4 steps.*'complementary': 0.31.*\(0.7, 1.0\)"):
        warm_start(replace(QUICK, lessons=(lesson,)), 0, progress=False)


def test_the_gate_looks_at_scenes_that_no_file_and_no_lesson_has() -> None:
    from verl_mars.toy import prepare

    streams = {0, 2} | {prepare._FIRST_SPLIT_SEED + number for number in range(len(prepare.SPLITS))}
    images = [world.make_scenes(20, [0, stream]).images for stream in streams]
    keys = [{picture.tobytes() for picture in made.reshape(-1, 56 * 56 * 3)} for made in images]
    assert len(set().union(*keys)) == sum(len(each) for each in keys) == len(streams) * 40


def test_the_tracks_differ_in_what_they_say() -> None:
    assert sorted(TRACKS) == ["broken_form", "default", "entrenched", "interference"]
    assert all(lesson.misled == 1.0 and not lesson.until for lesson in TRACKS["interference"].lessons[1:])
    assert TRACKS["broken_form"] == replace(TRACKS["interference"], breaks_form=True)
    first, lock = TRACKS["interference"].lessons
    assert TRACKS["entrenched"] == Recipe(lessons=(first, replace(lock, steps=5 * lock.steps)))
