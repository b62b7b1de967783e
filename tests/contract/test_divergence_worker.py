"""Comparing two views in the actor's worker: verl's micro-batches, and an engine simple enough to redo its steps."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from verl.utils import tensordict_utils

from verl_mars.algos.divergence import vocabulary_divergence
from verl_mars.trainer.divergence_worker import (
    OWN_PLACES,
    PIXELS,
    PLACES,
    RESULTS,
    compare,
    output_layer,
    weight_and_bias,
)

WORDS, UNITS = 11, 6
OWN = [[1, 2, 3, 4, 5], [6, 7, 8], [1, 3, 5, 7, 9, 2, 4], [8, 1, 8, 2]]
VIEW = [[2, 3, 4, 5], [7, 8], [1, 7, 9, 2, 4], [8, 2]]
SAMPLED = [2, 1, 3, 1]
"""The last so many tokens of each row were sampled, under both views."""


class Model(torch.nn.Module):
    """A state is the sum of the embeddings so far and of a row's pixels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(WORDS, UNITS)
        self.lm_head = torch.nn.Linear(UNITS, WORDS)

    def get_output_embeddings(self):
        return self.lm_head

    def states(self, row, shift):
        return self.embedding(torch.as_tensor(row)).cumsum(0) + shift


class Engine:
    """Steps over rows padded side by side or packed one after the other, as verl's engine takes them."""

    def __init__(self, packed):
        self.packed, self.module, self.steps = packed, Model(), []

    def eval_mode(self):
        return nullcontext()

    def get_data_parallel_group(self):
        return None

    def forward_step(self, micro, loss_function, forward_only):
        assert loss_function is None and forward_only
        rows = micro["input_ids"].unbind()
        self.steps.append([len(row) for row in rows])
        pixels = micro["multi_modal_inputs"] if "multi_modal_inputs" in micro.keys() else [{}] * len(rows)
        shifts = [getattr(inputs, "data", inputs).get("shift", 0.0) for inputs in pixels]
        states = [self.module.states(row, shift) for row, shift in zip(rows, shifts, strict=True)]
        if self.packed:
            logits = self.module.lm_head(torch.cat(states)[None])[0].split([len(row) for row in rows])
        else:
            padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
            logits = [out[: len(row)] for out, row in zip(self.module.lm_head(padded), rows, strict=True)]
        temperature = micro["temperature"]
        logs = [torch.log_softmax(out / temperature, -1) for out in logits]
        said = [log.gather(1, row.roll(-1)[:, None])[:, 0] for log, row in zip(logs, rows, strict=True)]
        nested = torch.nested.as_nested_tensor(said, layout=torch.jagged)
        return torch.tensor(1.0), {"model_output": {"log_probs": nested}}


def batch(rows, places, pixels):
    fields = [
        {"input_ids": torch.tensor(row), "position_ids": torch.arange(len(row)), **more}
        for row, more in zip(rows, places, strict=True)
    ]
    data = tensordict_utils.list_of_dict_to_tensordict(fields)
    for name, column in pixels.items():
        tensordict_utils.assign_non_tensor_stack(data, name, column)
    return data


def places(row, count):
    return torch.arange(len(row) - count - 1, len(row) - 1)


@pytest.fixture(params=["packed", "padded"])
def engine(request):
    return Engine(request.param == "packed")


def run(engine, pixels="", dynamic=True):
    config = SimpleNamespace(
        use_remove_padding=engine.packed,
        use_dynamic_bsz=dynamic,
        infer_max_token_len_per_gpu=9,
        infer_micro_batch_size_per_gpu=2,
    )
    counted = zip(OWN, VIEW, SAMPLED, strict=True)
    both = [{PLACES: places(seen, n), OWN_PLACES: places(row, n)} for row, seen, n in counted]
    columns = {"multi_modal_inputs": [{"shift": 0.1 * i} for i in range(4)], "other": [{"shift": 1.0}] * 4}
    own = tensordict_utils.assign_non_tensor(batch(OWN, [{}] * 4, columns), temperature=0.7, **{PIXELS: pixels})
    return compare(engine, config, batch(VIEW, both, {}), own)


def expected(engine, shift):
    model = engine.module
    for i, (row, seen, count) in enumerate(zip(OWN, VIEW, SAMPLED, strict=True)):
        p, q = model.states(row, 0.1 * i)[-count - 1 : -1], model.states(seen, shift)[-count - 1 : -1]
        logs = torch.log_softmax(model.lm_head(q) / 0.7, -1).gather(1, torch.tensor(seen[-count:])[:, None])[:, 0]
        yield logs, *vocabulary_divergence(p, q, model.lm_head.weight, model.lm_head.bias, 0.7)


@pytest.mark.parametrize("dynamic", [True, False])
def test_each_row_is_compared_with_its_own_view(engine, dynamic):
    """Whatever micro-batches verl makes of them: rows return in their order, places are those of their own tokens."""
    got = run(engine, dynamic=dynamic)
    for number, row in enumerate(expected(engine, shift=0.0)):
        for name, values in zip(RESULTS, row, strict=True):
            torch.testing.assert_close(got[name].unbind()[number], values, atol=1e-5, rtol=1e-4)
    own, other = engine.steps[::2], engine.steps[1::2]
    assert len(own) > 1 and [len(step) for step in own] == [len(step) for step in other]
    assert sorted(length for step in own for length in step) == sorted(map(len, OWN))


def test_pixels_of_the_other_view_are_read_where_they_lie(engine):
    got = run(engine, pixels="other")
    for number, row in enumerate(expected(engine, shift=1.0)):
        torch.testing.assert_close(got["divergence"].unbind()[number], row[1], atol=1e-5, rtol=1e-4)


def test_nothing_watches_the_output_layer_afterwards(engine):
    run(engine)
    assert not engine.module.lm_head._forward_pre_hooks


def test_an_output_layer_that_cannot_be_cut_is_refused():
    model = Model()
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(UNITS, WORDS), torch.nn.Tanh())
    with pytest.raises(ValueError, match=r"output layer is a torch.nn.Linear.*use divergence=sampled"):
        output_layer(model)


def with_adapter(**settings):
    from peft import LoraConfig, inject_adapter_in_model  # not before verl, which mends torchvision on a CPU

    return inject_adapter_in_model(LoraConfig(target_modules=["lm_head"], **settings), Model())


@pytest.mark.parametrize(("active", "merged"), [(True, False), (True, True), (False, False)])
def test_an_output_layer_with_lora_is_the_layer_that_was_run(active, merged):
    layer = output_layer(with_adapter(r=2, lora_alpha=8))
    assert not isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    if merged:
        layer.merge()
    layer.enable_adapters(active)
    states = torch.randn(5, UNITS)
    expected = layer(states)
    torch.testing.assert_close(torch.nn.functional.linear(states, *weight_and_bias(layer)), expected)
    changed = not torch.allclose(expected, torch.nn.functional.linear(states, *weight_and_bias(Model().lm_head)))
    assert changed == active


def test_an_output_layer_with_dora_is_refused():
    with pytest.raises(ValueError, match="DoRA; use divergence=sampled"):
        output_layer(with_adapter(r=2, use_dora=True))
