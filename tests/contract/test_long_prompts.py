"""Prompts longer than `data.max_prompt_length` are refused by file and row, with the model's own processor."""

import pytest
from PIL import Image
from test_refusals import make_row, write
from transformers import AutoProcessor

from verl_mars.methods import method_of
from verl_mars.preflight.data import length_faults
from verl_mars.preflight.doctor import compose_recipe, inspect_recipe, recipe_faults
from verl_mars.toy import model


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The toy model, whose tokenizer has a token for each letter of most texts."""
    folder = tmp_path_factory.mktemp("toy")
    model.save(model.build_model(seed=0), folder)
    return f"actor_rollout_ref.model.path={folder}"


@pytest.fixture
def rows(tmp_path):
    """Two rows of two sources, 56 x 56 and 112 x 56 pixels; the second row's text is 12 letters longer."""
    paths = []
    for name, size in (("rgb", (56, 56)), ("ir", (112, 56))):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", size).save(paths[-1])
    made = [make_row(str(paths[0]), index) for index in range(2)]
    for row in made:
        row["images"][1]["image"] = str(paths[1])
    made[1]["prompt"][0]["content"] += " xyzxyzxyzxy"
    return made


def faults(tmp_path, toy, rows, *overrides):
    return list(recipe_faults("toy_mars_grpo", [toy, write(tmp_path, rows), *overrides]))


def longest(tmp_path, toy, rows, *overrides):
    """The limit that is just enough."""
    config = compose_recipe("toy_mars_grpo", [toy, write(tmp_path, rows), *overrides])
    processor = AutoProcessor.from_pretrained(config.actor_rollout_ref.model.path)
    for limit in range(20, 80):
        config.data.max_prompt_length = limit
        if not length_faults(config, method_of(config.algorithm), processor):
            return limit
    raise AssertionError


def test_the_limit_is_that_of_the_longest_view(tmp_path, toy, rows):
    """As the processor makes it. The infrared image is the larger one, and its mono view shows it twice."""
    processor = AutoProcessor.from_pretrained(toy.partition("=")[2])
    text = rows[1]["prompt"][0]["content"].replace("<image>", "")
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]
    chat = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    infrared = Image.open(rows[1]["images"][1]["image"])
    tokens = processor(text=[chat], images=[infrared, infrared])["input_ids"][0]
    assert longest(tmp_path, toy, rows) == len(tokens)


def test_only_a_mono_prompt_is_too_long(tmp_path, toy, rows):
    limit = longest(tmp_path, toy, rows) - 1
    (fault, cure) = faults(tmp_path, toy, rows, f"data.max_prompt_length={limit}")
    assert f"train.parquet, row 1, sources: ir: {limit + 1} tokens, data.max_prompt_length allows {limit}" in fault
    assert "Raise data.max_prompt_length" in cure
    # the fused prompt alone is as long as the longest view where no image is shown twice
    assert longest(tmp_path, toy, rows, "algorithm.mars.mono_prompt=drop") < limit + 1


def test_each_row_that_is_too_long_is_named(tmp_path, toy, rows):
    found = faults(tmp_path, toy, rows, "data.max_prompt_length=20")
    assert [("row 0, " in line, "row 1, " in line) for line in found[:6]] == [(True, False)] * 3 + [(False, True)] * 3


def test_verls_own_filter_takes_care_of_fused_prompts_only(tmp_path, toy, rows):
    limit = longest(tmp_path, toy, rows) - 1
    filtered = "data.filter_overlong_prompts=true"
    assert len(faults(tmp_path, toy, rows, filtered, f"data.max_prompt_length={limit}")) == 2  # a mono view, the cure
    assert faults(tmp_path, toy, rows, filtered, "data.max_prompt_length=20") == []  # all rows are left out


def test_check_data_turns_it_off(tmp_path, toy, rows):
    assert faults(tmp_path, toy, rows, "data.max_prompt_length=20", "algorithm.mars.check_data=false") == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor_rollout_ref.model.path=nobody/no-such-model", "the processor of nobody/no-such-model is not on this"),
        ("+data.mm_processor_kwargs={max_pixels:3136}", "data.mm_processor_kwargs changes them"),
    ],
)
def test_what_cannot_be_counted_here_is_a_note(tmp_path, toy, rows, override, words):
    overrides = [toy, write(tmp_path, rows), "data.max_prompt_length=20", override]
    state = inspect_recipe("toy_mars_grpo", overrides)
    assert state.faults == []
    assert any("prompt lengths were not checked" in note and words in note for note in state.notes), state.notes
