"""References to stored visual inputs: what is fetched when, and that nothing wrong is ever returned."""

import gc
import pickle
import subprocess
import sys

import pytest
import torch

from verl_mars.images import reference
from verl_mars.images.reference import LostImages, StoredInputs, name_of, size_of, uid_of


def inputs(value, patches=4):
    return {"pixel_values": torch.full((patches, 6), value), "image_grid_thw": torch.tensor([[1, 2, patches // 2]])}


class Plane:
    """The data plane: what is stored, and the requests for it."""

    def __init__(self):
        self.stored, self.requests = {}, []

    def put(self, uid, tensors, limit=10**6, **own):
        name = name_of(uid, tensors)
        self.stored[name] = tensors
        return StoredInputs(name, size_of(tensors), limit, own, tensors)

    def objects(self, partition, names):
        assert partition == reference.PARTITION
        self.requests.append(sorted(map(uid_of, names)))
        missing = [name for name in names if name not in self.stored]
        if missing:
            raise ValueError("keys or partition were not found!")
        return [self.stored[name] for name in names]


@pytest.fixture
def plane(monkeypatch):
    from verl_mars import store

    plane = Plane()
    monkeypatch.setattr(store, "objects", plane.objects)
    monkeypatch.setattr(reference, "_fetched", {})
    monkeypatch.setattr(reference, "_references", type(reference._references)())
    return plane


def arrived(stored):
    """A reference as another process gets it."""
    return pickle.loads(pickle.dumps(stored))


def test_a_reference_is_small_and_reads_like_the_inputs(plane):
    tensors = inputs(1.0)
    stored = plane.put("a", tensors, images_seqlens=torch.tensor([4]))
    row = arrived(stored)
    assert len(pickle.dumps(StoredInputs("u" * 36 + "_" + "0" * 32, 1, 1, {}))) < 200
    assert plane.requests == [], "nothing is fetched on arrival"
    assert dict(row.items()).keys() == {"pixel_values", "image_grid_thw", "images_seqlens"} and len(row) == 3
    assert torch.equal(row["pixel_values"], tensors["pixel_values"]) and "image_bound" not in row
    assert row.get("video_grid_thw") is None and set(dict(row)) == set(row.keys()) and bool(row)


def test_where_the_tensors_are_at_hand_nothing_is_fetched(plane):
    stored = plane.put("a", inputs(1.0), mm_token_type_ids=1)
    assert stored.pop("mm_token_type_ids") == 1 and stored.pop("mm_token_type_ids", None) is None
    assert stored.get("image_grid_thw") is not None and plane.requests == []


def test_a_whole_batch_comes_in_one_request_and_once_a_step(plane):
    stored = [plane.put(uid, inputs(value)) for value, uid in enumerate("abc")]
    rows = [arrived(one) for one in stored for _ in range(4)]
    for row in rows:
        dict(row.items())
    assert plane.requests == [["a", "b", "c"]]
    rows = [arrived(one) for one in stored]  # the next pass over the same batch
    assert all(torch.equal(row["pixel_values"], one["pixel_values"]) for row, one in zip(rows, stored, strict=True))
    assert len(plane.requests) == 1


def test_what_no_row_refers_to_is_freed_when_the_next_batch_comes(plane):
    rows = [arrived(plane.put(uid, inputs(1.0))) for uid in "ab"]
    dict(rows[0].items())
    assert len(reference._fetched) == 2
    del rows
    gc.collect()
    new = arrived(plane.put("c", inputs(3.0)))
    dict(new.items())
    assert list(map(uid_of, reference._fetched)) == ["c"] and plane.requests == [["a", "b"], ["c"]]


def test_a_process_holds_no_more_than_its_limit(plane):
    size = size_of(inputs(0.0))
    rows = [arrived(plane.put(uid, inputs(float(value)), limit=2 * size)) for value, uid in enumerate("abcd")]
    for value, row in enumerate(rows):
        assert (row["pixel_values"] == value).all()
        assert sum(map(size_of, reference._fetched.values())) <= 2 * size
    assert plane.requests == [["a", "b"], ["c", "d"]]


def test_the_objects_of_two_prompts_mixed_up_are_caught(plane):
    one, other = plane.put("a", inputs(1.0)), plane.put("b", inputs(2.0))
    names = list(plane.stored)
    plane.stored[names[0]], plane.stored[names[1]] = plane.stored[names[1]], plane.stored[names[0]]
    row = arrived(one)
    with pytest.raises(LostImages, match="not those stored"):
        row.items()
    assert reference._fetched == {} and uid_of(other.name) == "b"


@pytest.mark.parametrize("change", ["value", "shape", "type", "name", "uid"])
def test_the_name_knows_the_content(change):
    plain, other, uid = inputs(1.0), inputs(1.0), "a"
    if change == "value":
        other["pixel_values"][3, 5] = 2.0
    elif change == "shape":
        other["pixel_values"] = other["pixel_values"].reshape(6, 4)
    elif change == "type":
        other["image_grid_thw"] = other["image_grid_thw"].view(torch.float64)
    elif change == "name":
        other["pixel_values_videos"] = other.pop("pixel_values")
    else:
        uid = "b"
    assert name_of("a", plain) == name_of("a", inputs(1.0)) != name_of(uid, other)


def test_a_lost_object_is_a_sentence(plane):
    row = arrived(plane.put("a", inputs(1.0)))
    plane.stored.clear()
    with pytest.raises(LostImages, match=r"cannot be read .* resume from the last checkpoint.* not found"):
        row.items()


@pytest.mark.parametrize("limit", [10**6, 0])
def test_what_views_share_is_stored_while_their_pass_lasts(plane, monkeypatch, limit):
    from verl_mars import store

    monkeypatch.setattr(store, "keep_all", lambda partition, values: plane.stored.update(values))
    monkeypatch.setattr(store, "drop", lambda partition, keys: [plane.stored.pop(key) for key in keys])
    shared, alone, stored = inputs(1.0), inputs(2.0), arrived(plane.put("a", inputs(3.0)))
    before = dict(plane.stored)
    with (
        pytest.raises(KeyError, match="a worker died"),
        reference.stored_once([shared, alone, {}, shared, stored, {}], limit) as rows,
    ):
        assert rows[1] is alone and rows[2] == {} and rows[4] is stored
        assert [type(rows[i]) for i in (0, 3)] == [StoredInputs if limit else dict] * 2
        assert len(plane.stored) == len(before) + bool(limit)
        assert torch.equal(arrived(rows[3])["pixel_values"], shared["pixel_values"])
        raise KeyError("a worker died")
    assert plane.stored == before


def test_a_storage_process_loads_nothing_with_a_reference():
    """It unpickles references, and torch or verl would be hundreds of megabytes in another."""
    code = (
        "import pickle, sys; from verl_mars.images.reference import StoredInputs; "
        "pickle.loads(pickle.dumps(StoredInputs('a_1', 1, 1, {}))); "
        "print(sorted({'torch', 'verl', 'transfer_queue', 'pydantic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
