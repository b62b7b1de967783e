"""Memory of an anchor: ``python benchmarks/anchor_memory.py`` prints a table and writes results/anchor_memory.json.

- *TransferQueue*: bytes that the fields of its prompt's anchors add to a trajectory, in TransferQueue's own encoding. A
  trajectory is put there by itself, as verl does it. Beside it, what a picture of the toy takes in the same trajectory
  (56 x 56 pixels, fp32 as the model reads it).
- *memory*: ``algorithm.mars.anchor_every`` above 1 keeps the anchors of every prompt in the trainer: bytes of Python
  objects a prompt (tracemalloc), and bytes a prompt of the file beside a checkpoint.
"""

import argparse
import tempfile
import tracemalloc
from pathlib import Path

import report
import torch
from transfer_queue.utils.serial_utils import MsgpackEncoder
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_mars.fields import FieldDict
from verl_mars.rows import Anchor, Anchors
from verl_mars.trainer.anchor_memory import FILE, AnchorMemory, prompt_identity

COUNTS = (1, 2, 6)
PROMPTS = 10_000
NAMES = [f"camera_{number + 1}" for number in range(max(COUNTS))]


def encoded(fields: FieldDict) -> int:
    """Bytes of a trajectory on its way into TransferQueue."""
    batch = list_of_dict_to_tensordict([{"responses": torch.zeros(8, dtype=torch.int64), **fields}])
    return sum(len(memoryview(part).cast("B")) for part in MsgpackEncoder().encode(batch))


def bytes_in_transfer_queue(anchors: int) -> int:
    """Bytes that the anchors add to a trajectory."""
    made = Anchors(tuple(Anchor(name, 0.1 + 0.9 / 3, 3.0, 9) for name in NAMES[:anchors]), 0.123456)
    return encoded(made.fields()) - encoded({})


def bytes_of_a_picture() -> int:
    """Bytes that a picture of the toy adds to a trajectory."""
    from PIL import Image

    from verl_mars.toy.model import build_processor
    from verl_mars.toy.world import make_scenes

    picture = Image.fromarray(make_scenes(1, 0).images[0, 0])
    made = build_processor().image_processor(images=[picture], return_tensors="pt")
    return encoded({"pixel_values": made["pixel_values"]}) - encoded({})


def bytes_in_memory(anchors: int, prompts: int) -> dict[str, float]:
    """Bytes a prompt, in the trainer and in the file beside a checkpoint."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    memory = AnchorMemory(every=4)
    for index in range(prompts):
        # Separate objects, as a batch from TransferQueue has them.
        names = ["".join(name) for name in NAMES[:anchors]]
        scores = torch.rand(anchors).tolist()
        identity = prompt_identity("my_set", index, {"sample_id": f"train-{index:06d}"})
        memory.remember(identity, names, scores, [float(index)] * anchors)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        memory.save(Path(folder))
        written = (Path(folder) / FILE).stat().st_size
    return {"memory": used / prompts, "file": written / prompts}


def table(result: FieldDict) -> str:
    rows = []
    for anchors, found in (result["anchors"] | {"an anchor more": result["an_anchor"]}).items():
        cells = [found["transfer_queue"], found["memory"], found["file"]]
        rows.append([anchors, *(f"{cell:,.0f}" for cell in cells)])
    head = ["K", "TransferQueue, bytes a trajectory", "`anchor_every`, bytes a prompt", "its file, bytes a prompt"]
    picture = f"A picture of the toy takes {result['picture']:,} bytes of the same trajectory."
    return f"{report.where(result)}\n\n{report.markdown(head, rows)}\n\n{picture}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="prompts that the anchors of are kept")
    prompts = parser.parse_args().prompts
    result: FieldDict = report.about("torch", "TransferQueue", "tensordict")
    result |= {"prompts": prompts, "anchors": {}, "picture": bytes_of_a_picture()}
    for anchors in COUNTS:
        found = {"transfer_queue": bytes_in_transfer_queue(anchors), **bytes_in_memory(anchors, prompts)}
        result["anchors"][str(anchors)] = found
    two, six = result["anchors"]["2"], result["anchors"]["6"]
    result["an_anchor"] = {key: (six[key] - two[key]) / 4 for key in two}
    report.publish("anchor_memory", result, table(result))


if __name__ == "__main__":
    main()
