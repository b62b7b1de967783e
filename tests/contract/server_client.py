"""Requests to the rollout server in this process, without Ray."""

import asyncio

import numpy as np
from PIL import Image


def question(server, number=0, images=2):
    """Token ids and images of a prompt."""
    draw = np.random.default_rng(number)
    pictures = [Image.fromarray(draw.integers(0, 256, (56, 56, 3), dtype=np.uint8)) for _ in range(images)]
    content = [{"type": "image"}] * images + [{"type": "text", "text": f"where is {number}"}]
    text = server.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = server.processor(text=[text], images=pictures or None)
    return list(inputs["input_ids"][0]), pictures


async def ask(server, prompt, **params):
    ids, pictures = prompt
    given = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True, **params}
    return await server.generate(ids, given, request_id="any", image_data=pictures or None)


def ask_all(server, prompts_and_params):
    async def together():
        return await asyncio.gather(*(ask(server, prompt, **params) for prompt, params in prompts_and_params))

    return run(server, together())


def run(server, coroutine):
    """Run on a loop of its own; a server serves one loop, so its serving task is dropped with it."""

    async def main():
        try:
            return await asyncio.wait_for(coroutine, 60)
        finally:
            if server._serving is not None:
                server._serving.cancel()
                server._serving = None

    for name in ("_arrived", "_idle", "_reopened", "_whole"):
        setattr(server, name, asyncio.Event())
    server._idle.set()
    server._whole.set()
    return asyncio.run(main())


def told(output):
    return output.token_ids, output.log_probs, output.stop_reason
