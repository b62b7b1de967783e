"""Cost of rescoring the blind view compared with the old log-probs of the same rows: both forward passes.

A small Qwen2.5-VL with random weights, pictures of several sizes, one CPU thread. The blind rows are made by the very
view that training uses. As in verl, the vision tower runs on 4x4 empty patches where a batch has no picture.

    python benchmarks/score_view.py            # prints a table, writes benchmarks/results/score_view.json
"""

import json
import platform
import statistics
import time
from pathlib import Path

import torch

from verl_mars._compat import define_missing_torchvision_ops

define_missing_torchvision_ops()

from verl_mars.toy import model as toy_model  # noqa: E402
from verl_mars.toy.forward import PATCH  # noqa: E402
from verl_mars.views import Blind, Trajectory  # noqa: E402

ROWS = 4
TEXT, RESPONSE = 60, 48  # tokens
REPEATS = 5
SIDES = (56, 112, 224, 420)  # pixels; two pictures to a prompt


def make_rows(side: int, vocabulary: int, image: int, generator: torch.Generator) -> list[Trajectory]:
    """Rows of two pictures, a question and a response, all of one length."""
    grid = side // PATCH
    merged = grid // 2
    visual = 2 * merged**2
    words = torch.randint(len(toy_model.SPECIAL), vocabulary, (ROWS, TEXT + RESPONSE), generator=generator)
    places = torch.cartesian_prod(torch.arange(merged), torch.arange(merged)).T
    spans = [torch.stack((torch.full_like(places[0], at), at + places[0], at + places[1])) for at in (1, 1 + merged)]
    start = 1 + 2 * merged
    text = (start + torch.arange(TEXT - 1 + RESPONSE)).expand(3, -1)
    mrope = torch.cat((torch.zeros(3, 1, dtype=torch.long), *spans, text), dim=1)
    position_ids = torch.cat((torch.arange(mrope.shape[1])[None], mrope))
    pixels = torch.randn(2 * grid**2, 3 * 2 * PATCH**2, generator=generator)
    inputs = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, grid, grid]] * 2)}
    rows = []
    for row in words:
        prompt = torch.cat((row[:1], torch.full((visual,), image), row[1:TEXT]))
        rows.append(Trajectory(prompt, row[TEXT:], torch.ones(RESPONSE, dtype=torch.long), position_ids, inputs))
    return rows


@torch.no_grad()
def seconds(model: torch.nn.Module, rows: list[Trajectory], empty: torch.Tensor) -> float:
    """Median time of the log-probs of all rows in one batch."""
    ids = torch.stack([torch.cat((row.prompt, row.response)) for row in rows])
    positions = torch.stack([row.position_ids for row in rows], dim=1)
    visual = {}
    if rows[0].visual_inputs:
        visual = {name: torch.cat([row.visual_inputs[name] for row in rows]) for name in rows[0].visual_inputs}
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        if not visual:
            model.model.visual(empty, grid_thw=torch.tensor([[1, 4, 4]]))
        logits = model(
            input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False, **visual
        ).logits
        torch.log_softmax(logits[:, :-1], dim=-1).gather(2, ids[:, 1:, None])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    model = toy_model.build_model(0).eval()
    generator = torch.Generator().manual_seed(0)
    blind = Blind(frozenset({model.config.image_token_id}))
    empty = torch.zeros(16, 3 * 2 * PATCH**2)
    results = []
    print("side  visual  fused s  blind s  ratio")
    for side in SIDES:
        rows = make_rows(side, model.config.text_config.vocab_size, model.config.image_token_id, generator)
        shown = [view for row in rows if (view := blind.show(row)) is not None]
        total = len(rows[0].prompt) + RESPONSE
        share = 1 - (len(shown[0].prompt) + RESPONSE) / total
        fused, without = seconds(model, rows, empty), seconds(model, shown, empty)
        results.append({"side": side, "tokens": total, "visual_share": share, "fused": fused, "blind": without})
        print(f"{side:4d}  {share:6.0%}  {fused:7.3f}  {without:7.3f}  {without / fused:5.2f}")
    machine = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    out = Path(__file__).parent / "results" / "score_view.json"
    out.write_text(json.dumps({"rows": ROWS, "environment": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
