"""Rescoring against a stand-in for TransferQueue and the workers: which rows, which tokens, and cleaned up."""

from types import SimpleNamespace

import pytest
import torch
from transfer_queue import KVBatchMeta

from verl_mars import store
from verl_mars.methods import METHODS, RowsToView, TokenValues, ViewContext
from verl_mars.rows import NOISY, OTHER_VISUAL_INPUTS
from verl_mars.trainer import rescore as rescoring
from verl_mars.trainer import token_dump
from verl_mars.trainer.divergence_worker import RESULTS
from verl_mars.views import Blind, OtherPixels, Trajectory

IMAGE = 9


class Queue:
    """TransferQueue's three calls on a dictionary."""

    def __init__(self):
        self.rows, self.cleared = {}, []

    def kv_batch_put(self, keys, partition_id, fields, tags):
        assert partition_id == rescoring.PARTITION and len(tags) == len(keys)
        self.rows |= {key: {name: fields[name][i] for name in fields.keys()} for i, key in enumerate(keys)}

    def kv_batch_get(self, keys, partition_id, select_fields):
        columns = {name: [self.rows[key][name] for key in keys] for name in select_fields}
        return {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in columns.items()}

    def kv_clear(self, keys, partition_id):
        self.cleared += keys
        self.rows = {key: row for key, row in self.rows.items() if key not in keys}


class Workers:
    """The log-prob of a token is minus the id of the token before it."""

    def __init__(self, queue, fails=False):
        self.queue, self.fails, self.batches = queue, fails, []

    def compute_log_prob(self, meta):
        if self.fails:
            raise RuntimeError("out of memory")
        self.batches.append((list(meta.keys), dict(meta.extra_info)))
        self.seen = {key: dict(self.queue.rows[key]) for key in meta.keys}
        for key in meta.keys:
            self.queue.rows[key]["log_probs"] = -torch.roll(self.queue.rows[key]["input_ids"], 0).float()


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    monkeypatch.setattr(store, "tq", queue)
    return queue


def trajectory(prompt, response, mask=None):
    count = len(prompt) + len(response)
    mask = [1] * len(response) if mask is None else mask
    return Trajectory(torch.tensor(prompt), torch.tensor(response), torch.tensor(mask), torch.arange(count), {})


ROWS = {
    "a": trajectory([1, IMAGE, 2], [3, 4]),
    "b": trajectory([5, 6], [7, 8, 2]),  # no image
    "c": trajectory([1, IMAGE, IMAGE, 2], [3, IMAGE, 4, 5], [1, 0, 0, 1]),  # a tool showed an image
}
OLD = [torch.full((len(row.response),), -50.0) for row in ROWS.values()]


def score(views, workers, multiple=1):
    scores = rescoring.rescore(list(ROWS), list(ROWS.values()), views, OLD, workers, 0.7, multiple)
    return scores.log_probs, scores.rows


def test_each_row_gets_the_log_probs_of_its_own_view(queue):
    workers = Workers(queue)
    got, count = score([Blind(frozenset({IMAGE}))] * 3, workers)
    # the token before each response token: 2, 3 / nothing to hide / 2, -, -, 4 (the tool's tokens keep theirs)
    assert [row.tolist() for row in got] == [[-2, -3], [-50, -50, -50], [-2, -50, -50, -4]]
    assert count == 2
    assert workers.batches == [(["a", "c"], {"calculate_entropy": False, "compute_loss": False, "temperature": 0.7})]
    assert workers.seen["a"]["input_ids"].tolist() == [1, 2, 3, 4]
    assert workers.seen["c"]["input_ids"].tolist() == [1, 2, 3, 4, 5]
    assert workers.seen["c"]["loss_mask"].tolist() == [1, 0, 1]


def test_rows_without_a_view_are_not_passed_on(queue):
    workers = Workers(queue)
    got, count = score([None, OtherPixels({"pixel_values": torch.ones(1)}), None], workers)
    assert [row.tolist() for row in got] == [[-50, -50], [-6, -7, -8], [-50] * 4] and count == 1
    assert list(workers.seen["b"]["multi_modal_inputs"]) == ["pixel_values"]


def test_nothing_to_score_needs_no_worker(queue):
    got, count = score([None] * 3, Workers(queue, fails=True))
    assert count == 0 and all(torch.equal(a, b) for a, b in zip(got, OLD, strict=True))


@pytest.mark.parametrize(("multiple", "passed"), [(1, 3), (2, 4), (3, 3), (8, 8)])
def test_rows_are_filled_up_to_a_multiple(queue, multiple, passed):
    workers = Workers(queue)
    got, count = score([OtherPixels({})] * 3, workers, multiple)
    assert len(workers.batches[0][0]) == passed == len(set(workers.batches[0][0])) and count == 3
    assert got[1].tolist() == [-6, -7, -8]


def test_the_partition_is_cleared(queue):
    score([OtherPixels({})] * 3, Workers(queue), 2)
    assert queue.rows == {} and len(queue.cleared) == 4


def test_the_partition_is_cleared_when_the_workers_fail(queue):
    with pytest.raises(RuntimeError, match="out of memory"):
        score([OtherPixels({})] * 3, Workers(queue, fails=True))
    assert queue.rows == {} and sorted(queue.cleared) == ["a", "b", "c"]


def test_the_given_log_probs_are_left_alone(queue):
    score([OtherPixels({})] * 3, Workers(queue))
    assert all(set(row.tolist()) == {-50.0} for row in OLD)


# ---------------------------------------------------------------- over the whole vocabulary


class Comparers(Workers):
    """For each sampled token: where it is predicted under the view, the same under the own view, and 9 times that."""

    def compute_view_divergence(self, meta, own):
        if self.fails:
            raise RuntimeError("out of memory")
        self.batches.append((list(meta.keys), own))
        self.seen = {key: dict(self.queue.rows[key]) for key in meta.keys}
        for row in (self.queue.rows[key] for key in meta.keys):
            places = (row["places"].float(), row["own_places"].float(), 9 * row["own_places"].float())
            row.update(zip(RESULTS, places, strict=True))


def compare(views, workers, multiple=1, pixels=""):
    batch = KVBatchMeta(keys=list(ROWS), tags=[{}] * len(ROWS), partition_id="train")
    rows = list(ROWS.values())
    return rescoring.compare_views(
        batch, rows, views, OLD, workers, 0.7, multiple, 0, pixels, Blind(frozenset({IMAGE}))
    )


def test_each_sampled_token_is_compared_at_the_place_that_predicts_it(queue):
    workers = Comparers(queue)
    scores = compare([Blind(frozenset({IMAGE}))] * 3, workers)
    # a: [1, 2 | 3, 4] of [1, I, 2 | 3, 4]; b has no image; c: [1, 2 | 3, 4, 5] of [1, I, I, 2 | 3, I, 4, 5], tool's out
    assert [row.tolist() for row in scores.log_probs] == [[1, 2], [-50, -50, -50], [1, -50, -50, 3]]
    assert [row.tolist() for row in scores.divergence] == [[2, 3], [0, 0, 0], [3, 0, 0, 6]]
    assert [row.tolist() for row in scores.reverse_divergence] == [[18, 27], [0, 0, 0], [27, 0, 0, 54]]
    assert scores.rows == 2 and queue.rows == {}


def test_pixels_are_named_and_not_passed_on(queue):
    workers = Comparers(queue)
    compare([None, OtherPixels({}), None], workers, pixels="other_visual_inputs")
    (_, own), *_ = workers.batches
    assert own.fields == ["input_ids", "position_ids", "multi_modal_inputs", "other_visual_inputs"]
    assert own.partition_id == "train" and own.keys == ["b"]
    assert own.extra_info == {"temperature": 0.7, "pixels": "other_visual_inputs"}
    assert "multi_modal_inputs" not in workers.seen["b"]


def test_other_rows_fill_up_without_pixels_and_are_left_out_again(queue):
    workers = Comparers(queue)
    scores = compare([None, OtherPixels({}), None], workers, multiple=3, pixels="other_visual_inputs")
    (keys, own), *_ = workers.batches
    assert keys == own.keys == ["b", "a", "c"]
    assert workers.seen["a"]["input_ids"].tolist() == [1, 2, 3, 4]  # the fill-up view: no visual tokens
    assert [row.tolist() for row in scores.divergence] == [[0, 0], [1, 2, 3], [0] * 4] and scores.rows == 1


def test_pixels_that_a_view_brings_along_are_stored_with_the_training_rows(queue, monkeypatch):
    """And taken away again: a method without pixels in the store may still rescore under other ones."""
    stored, workers = [], Comparers(queue)
    monkeypatch.setattr(store, "write", lambda batch, columns: stored.append(columns))
    compare([None, OtherPixels({"pixel_values": 7}), None], workers)
    (_, own), *_ = workers.batches
    assert own.extra_info["pixels"] == OTHER_VISUAL_INPUTS and OTHER_VISUAL_INPUTS in own.fields
    assert stored == [{OTHER_VISUAL_INPUTS: [{}, {"pixel_values": 7}, {}]}, {OTHER_VISUAL_INPUTS: [{}, {}, {}]}]


def test_nothing_to_compare_needs_no_worker(queue):
    scores = compare([None] * 3, Comparers(queue, fails=True))
    assert scores.rows == 0 and not any(row.any() for row in scores.divergence)


def test_the_partition_is_cleared_when_comparing_fails(queue):
    with pytest.raises(RuntimeError, match="out of memory"):
        compare([OtherPixels({})] * 3, Comparers(queue, fails=True))
    assert queue.rows == {}


# ---------------------------------------------------------------- which views, and the dump of tokens


def views_of(name, processor, real, fields=None):
    rows = RowsToView(keys=["a_0_0"] * len(real), real=torch.tensor(real), trajectories=[], fields=fields or {})
    return METHODS[name]().views(rows, ViewContext(None, processor, step=1, seed=0))


def test_the_blind_view_hides_the_processors_image_and_video_tokens():
    processor = SimpleNamespace(image_token_id=IMAGE, video_token_id=8)
    assert views_of("pgpo", processor, [True, False]) == [Blind(frozenset({IMAGE, 8})), None]


def test_a_model_without_image_tokens_has_no_blind_view():
    with pytest.raises(ValueError, match="needs a vision-language model"):
        views_of("pgpo", SimpleNamespace(), [True])


def test_rows_of_noisy_groups_alone_get_other_pixels():
    fields = {NOISY: [True, False, True], OTHER_VISUAL_INPUTS: [{"a": 1}, {}, {"a": 1}]}
    assert views_of("vogue", None, [True, True, False], fields) == [OtherPixels({"a": 1}), None, None]


def test_tokens_are_dumped_by_key(monkeypatch):
    nested = torch.nested.as_nested_tensor([torch.tensor([1, 2, 3]), torch.tensor([4])], layout=torch.jagged)
    rows = {"responses": nested, "response_mask": nested > 1}
    monkeypatch.setattr(store, "tq", SimpleNamespace(kv_batch_get=lambda **_: rows))
    dump = token_dump.TokenDump(SimpleNamespace(decode=lambda ids: f"<{ids[0]}>"))
    batch = SimpleNamespace(keys=["x", "y"], partition_id="train")
    values = torch.tensor([[0.1, 0.2, 1 / 3], [0.4, 0.0, 0.0]])
    dump.add(batch, {"dependency": TokenValues(values, "nats")})
    about = {"token_values": {"dependency": "nats"}}
    assert dump.take(["y", "other", "x"]) == [
        {"tokens": ["<4>"], "sampled": [True], "dependency": [0.4], **about},
        {},
        {"tokens": ["<1>", "<2>", "<3>"], "sampled": [False, True, True], "dependency": [0.1, 0.2, 0.333333], **about},
    ]
    assert dump.take(["x"]) == [{}], "nothing is kept after"
