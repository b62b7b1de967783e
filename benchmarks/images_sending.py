"""What it costs to hand a prompt's images to the rollout servers: ``python benchmarks/images_sending.py``.

Real Ray on one machine: n + K sessions of a prompt call a server that looks at each image and answers at once.
``calls``: verl's way, each call carries the images (``data.images_once.enable=false``). ``once``: the calls refer to
one object. For each prompt, alternating between the two ways: CPU seconds of the calling process, and seconds until the
last answer; medians over prompts, and of the ratio of neighbours.
"""

import argparse
import asyncio
import statistics
import time

import numpy as np
import ray
import report
from PIL import Image

from verl_mars.fields import FieldDict
from verl_mars.images.once import PromptImages
from verl_mars.images.sending import SendsImagesOnce

SIZES = {"2 x 448 x 448": ((448, 448), 2), "2 x 1280 x 1024": ((1280, 1024), 2)}
SESSIONS = (1, 10, 16)
"""n + K: 8 rollouts and 2 anchors, 14 and 2."""
ARMS = ("calls", "once")


@ray.remote(num_cpus=0)
class Server:
    """Looks at the images of a call."""

    async def generate(self, image_data: list[Image.Image]) -> int:
        """Sum of a corner of each image."""
        return sum(int(np.asarray(image)[0, 0].sum()) for image in image_data)


class Client:
    """Calls the server as verl's ``LLMServerClient`` does."""

    def __init__(self) -> None:
        self.server = Server.remote()

    async def generate(self, image_data: list[Image.Image]) -> int:
        """One session."""
        return await self.server.generate.remote(image_data=image_data)


async def prompt(
    client: Client, owners: dict[int, PromptImages], arm: str, images: list[Image.Image], sessions: int
) -> list[float]:
    """CPU seconds of this process, and seconds, for one prompt."""
    fresh = [image.copy() for image in images]
    start, cpu = time.perf_counter(), time.process_time()
    once = SendsImagesOnce(client, owners)
    of_prompt = PromptImages(owners)
    if arm == "once":
        for image in fresh:
            of_prompt.adopt(image)
    await asyncio.gather(*(once.generate(image_data=list(fresh)) for _ in range(sessions)))
    of_prompt.close()
    return [time.process_time() - cpu, time.perf_counter() - start]


def measure(size: tuple[int, int], count: int, sessions: int, prompts: int, client: Client) -> FieldDict:
    """Both ways for so many prompts each."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]
    taken: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    for number in range(2 * (prompts + 1)):
        arm = ARMS[number % 2]
        taken[arm].append(asyncio.run(prompt(client, {}, arm, images, sessions)))
    case: FieldDict = {}
    for column, name in enumerate(("cpu_seconds", "seconds")):
        pairs = [(a[column], b[column]) for a, b in zip(taken["calls"][1:], taken["once"][1:], strict=True)]
        for arm, values in zip(ARMS, zip(*pairs, strict=True), strict=True):
            case[f"{arm}_{name}"] = statistics.median(values)
        case[f"ratio_{name}"] = statistics.median(once / calls for calls, once in pairs)
    return case


def table(result: FieldDict) -> str:
    """The figures as Markdown."""
    head = ["pictures", "n + K"]
    rows = [[case["size"], str(case["sessions"])] for case in result["cases"]]
    for name, title in (("cpu_seconds", "CPU ms"), ("seconds", "ms")):
        head += [f"{title}, `calls`", f"{title}, `once`", f"{title}, ratio"]
        for row, case in zip(rows, result["cases"], strict=True):
            row += [f"{1e3 * case[f'{arm}_{name}']:.1f}" for arm in ARMS] + [f"{case[f'ratio_{name}']:.2f}"]
    return f"{report.where(result)}\n\n{report.markdown(head, rows)}"


def main() -> None:
    """Measure every case and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=20)
    options = parser.parse_args()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    client, cases = Client(), []
    for name, (size, count) in SIZES.items():
        for sessions in SESSIONS:
            case = measure(size, count, sessions, options.prompts, client)
            cases.append({"size": name, "sessions": sessions, **case})
            print(cases[-1], flush=True)
    ray.shutdown()
    result = {**report.about("verl", "ray", "pillow"), **vars(options), "cases": cases}
    report.publish("images_sending", result, table(result))


if __name__ == "__main__":
    main()
