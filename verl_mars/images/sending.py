"""The images of a prompt go to the rollout servers once; its sessions hand over a reference.

Ray copies a large argument into its object store in each call. A prompt makes n + K calls with the same few lists of
images.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import wrapt

from verl_mars.images.once import PromptImages, owner_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from ray import ObjectRef
    from verl.workers.rollout.llm_server import LLMServerClient
    from verl.workers.rollout.replica import TokenOutput

INLINED = 100 * 1024
"""Bytes up to which Ray sends an argument within the call itself (``RAY_max_direct_call_object_size``)."""


class SendsImagesOnce(wrapt.ObjectProxy):
    """A client of the rollout servers (verl's ``LLMServerClient``) that refers to images which are sent already.

    Ray replaces a reference that is an argument of a call by its object, so the servers see images as before. Images
    that belong to no prompt, such as those that a tool returns, are sent with each call.
    """

    def __init__(self, wrapped: "LLMServerClient", owners: Mapping[int, PromptImages]) -> None:
        super().__init__(wrapped)
        self._self_owners = owners

    async def generate(self, *args: object, image_data: "list[Image] | None" = None, **kwargs: object) -> "TokenOutput":
        """As verl's; ``image_data`` may become a reference."""
        prompt = owner_of(image_data, self._self_owners)
        sent: list[Image] | ObjectRef | None = image_data
        if prompt is not None and image_data is not None and _size(image_data) > INLINED:
            sent = await prompt.sent(image_data, _put)
        return await self.__wrapped__.generate(*args, image_data=sent, **kwargs)


def _size(images: "list[Image]") -> int:
    """Bytes of decoded images of three bytes a pixel, about."""
    return sum(3 * math.prod(getattr(image, "size", (0, 0))) for image in images)


async def _put(images: "list[Image]") -> "ObjectRef":
    """A reference to a list of images in Ray's object store; it is freed with the last reference."""
    import ray

    return await asyncio.to_thread(ray.put, images)
