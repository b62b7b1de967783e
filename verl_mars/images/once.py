"""Each image of a prompt is loaded and cut to patches once, whatever the number of sessions and views.

:class:`PromptImages` remembers the work on one prompt's images while its sessions run. The sessions start together, so
what is remembered are tasks and futures: the first session computes, the others wait for it. :class:`SharedProcessor`
and :class:`SharedImageProcessor` stand before the model's processor and ask the prompt that an image belongs to; images
that belong to none, such as those that a tool returns, are processed as without them.
"""

import asyncio
import copy
import enum
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import wrapt

from verl_mars.fields import Fields
from verl_mars.views import parts_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BatchFeature, ProcessorMixin
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.image_utils import ImageInput

    Process = Callable[[list[Image]], BatchFeature]

T = TypeVar("T")
Media = tuple[Any, ...]
"""Images, videos and sounds of a conversation: a list of each, or None."""
Load = Callable[[Sequence[Fields]], Awaitable[Media]]
"""Loads the media of a conversation."""

PIXELS, GRID = "pixel_values", "image_grid_thw"
"""Outputs of an image processor that puts the patches of all images one after the other, as Qwen-VL's."""


class Patches(NamedTuple):
    """An image's part of the output of such a processor."""

    pixels: torch.Tensor  # (patches, values)
    grid: torch.Tensor  # (1, 3) time, rows, columns


class PromptImages:
    """The images of one prompt, while its sessions run."""

    def __init__(self, owners: "dict[int, PromptImages]") -> None:
        """
        Args:
            owners: the prompt of each image of the process, by the image's id; kept up to date here.
        """
        self.seconds = 0.0
        """CPU seconds spent so far on loading images and cutting them to patches."""
        self.bytes = 0
        """Of all processed images that are held."""
        self.pixels = 0
        """Number of pixels of the loaded images."""
        self._owners = owners
        self._closed = False
        self._lock = threading.Lock()
        self._held: dict[int, object] = {}  # by id: images, and values of messages whose ids are keys
        self._made: dict[int, torch.Tensor] = {}  # by id: outputs of the image processor
        self._loads: dict[Hashable, asyncio.Task] = {}
        self._sent: dict[Hashable, asyncio.Task] = {}
        self._lists: dict[Hashable, Future] = {}
        self._patches: dict[Hashable, Future] = {}

    def close(self) -> None:
        """Forget everything; the last session has ended."""
        for number in self._held:
            if self._owners.get(number) is self:
                del self._owners[number]
        with self._lock:
            self._closed = True
            for memory in (self._held, self._made, self._loads, self._sent, self._lists, self._patches):
                memory.clear()

    def spent(self, start: float) -> None:
        """Add the CPU time of this thread since ``start`` (``time.thread_time()``)."""
        with self._lock:
            self.seconds += time.thread_time() - start

    # ------------------------------------------------------------ loading

    async def load(self, messages: Sequence[Fields], load: Load, piecewise: bool) -> Media:
        """Images, videos and sounds of a conversation.

        Args:
            messages: the conversation.
            load: does it.
            piecewise: each image of a conversation can be loaded without the others.
        """
        media = [part for part in parts_of(messages) if part.get("type") != "text"]
        if not piecewise or not media or any(part.get("type") != "image" for part in media):
            return await self._load_once(messages, load)
        each = ([{"role": "user", "content": [part]}] for part in media)
        loaded = await asyncio.gather(*(self._load_once(one, load) for one in each))
        return [image for images, *_ in loaded for image in images], *loaded[0][1:]

    async def _load_once(self, messages: Sequence[Fields], load: Load) -> Media:
        key = tuple(map(_identity, parts_of(messages)))
        images, *others = await once_for_all(self._loads, key, lambda: self._load(messages, load))
        return (None if images is None else list(images)), *others

    async def _load(self, messages: Sequence[Fields], load: Load) -> Media:
        self._held.update((id(value), value) for part in parts_of(messages) for value in part.values())
        images, *others = await load(messages)
        for image in images or ():
            self.adopt(image)
        return images, *others

    def adopt(self, image: "Image") -> None:
        """Let this prompt own an image."""
        if self._closed:
            return  # loaded for a session that was cancelled
        self._held[id(image)] = image
        self._owners[id(image)] = self
        width, height = getattr(image, "size", (0, 0))
        self.pixels += width * height

    # ------------------------------------------------------------ sending

    async def sent(self, images: "Sequence[Image]", send: "Callable[[list[Image]], Awaitable[T]]") -> T:
        """What ``send`` returned for these images of the prompt, whichever session was the first."""
        return await once_for_all(self._sent, tuple(map(id, images)), lambda: send(list(images)))

    # ------------------------------------------------------------ processing

    def made(self, value: object) -> bool:
        """Whether this very object is an output of the image processor for images of this prompt."""
        return id(value) in self._made

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """A shallow copy of what ``make`` returned for this key, whoever called it; called from any thread."""
        with self._lock:
            future = self._lists.get(key)
            mine = future is None
            if future is None:
                future = self._lists[key] = Future()
        if mine:
            self._settle(self._lists, {key: future}, lambda: {key: make()})
        return copy.copy(future.result())

    def process(self, images: "Sequence[Image]", settings: Hashable, process: "Process") -> "BatchFeature":
        """The processor's output for some of this prompt's images: made of patches that are there, if possible.

        Args:
            images: all of this prompt.
            settings: of the processor.
            process: the processor.
        """

        def make() -> "BatchFeature":
            result = self._process(images, settings, process)
            tensors = [value for value in result.values() if isinstance(value, torch.Tensor)]
            with self._lock:
                self.bytes += sum(tensor.nbytes for tensor in tensors)
                if not self._closed:
                    self._made.update((id(tensor), tensor) for tensor in tensors)
            return result

        return self.once((tuple(map(id, images)), settings), make)

    def _process(self, images: "Sequence[Image]", settings: Hashable, process: "Process") -> "BatchFeature":
        keys = [(id(image), settings) for image in images]
        with self._lock:
            new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._patches}
            mine: dict[Hashable, Future] = {key: Future() for key in new}
            self._patches.update(mine)
            futures = {key: self._patches[key] for key in keys}
        whole = self._cut(mine, list(new.values()), process) if mine else None
        if whole is not None and len(new) == len(images):
            return whole
        patches = [futures[key].result() for key in keys]
        start = time.thread_time()
        try:
            if any(part is None for part in patches):  # a processor whose output cannot be put together
                return process(list(images))
            pixels, grid = torch.cat([part.pixels for part in patches]), torch.cat([part.grid for part in patches])
        finally:
            self.spent(start)
        from transformers import BatchFeature

        return BatchFeature({PIXELS: pixels, GRID: grid})

    def _cut(self, mine: Mapping[Hashable, Future], images: "list[Image]", process: "Process") -> "BatchFeature":
        """The processor's output for images that nobody has processed yet; their patches are then known."""
        outputs = []

        def cut() -> dict[Hashable, Patches | None]:
            start = time.thread_time()
            outputs.append(process(images))
            self.spent(start)
            return dict(zip(mine, _split(outputs[0], len(images)), strict=True))

        self._settle(self._patches, mine, cut)
        return outputs[0]

    def _settle(self, memory: dict, futures: Mapping[Hashable, Future], make: Callable[[], Mapping]) -> None:
        """Give each future its result; after an error forget them all, since the next session may try again."""
        try:
            results = make()
        except BaseException as error:
            with self._lock:
                for key, future in futures.items():
                    memory.pop(key, None)
                    future.set_exception(error)
            raise
        for key, future in futures.items():
            future.set_result(results[key])


async def once_for_all(tasks: dict[Hashable, asyncio.Task], key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
    """What ``make`` returned for this key, whichever session was the first."""

    async def made() -> T:
        try:
            return await make()
        except BaseException:
            tasks.pop(key, None)  # the next session may try again
            raise

    task = tasks.get(key)
    if task is None:
        task = tasks[key] = asyncio.ensure_future(made())
    return await asyncio.shield(task)  # a session may be cancelled while others wait


def _split(result: "BatchFeature", count: int) -> Sequence[Patches | None]:
    """Each image's patches in the output of an image processor; None where it does not put them one after the other."""
    pixels, grid = result.get(PIXELS), result.get(GRID)
    tensors = isinstance(pixels, torch.Tensor) and isinstance(grid, torch.Tensor)
    if set(result.keys()) != {PIXELS, GRID} or not tensors or grid.shape != (count, 3):
        return [None] * count
    sizes = grid.prod(-1).tolist()
    if pixels.shape[0] != sum(sizes):
        return [None] * count
    return [Patches(*pair) for pair in zip(pixels.split(sizes), grid.split(1), strict=True)]


def _identity(part: Fields) -> Hashable:
    """Tells the media of a conversation apart: equal texts and numbers are the same, anything else by its id."""
    plain = (str, int, float, bytes, bool, type(None))
    return tuple((key, value if isinstance(value, plain) else id(value)) for key, value in sorted(part.items()))


def owner_of(images: object, owners: Mapping[int, PromptImages]) -> PromptImages | None:
    """The prompt that all these images belong to; None if there is no such prompt."""
    if not isinstance(images, list) or not images:
        return None
    found = {owners.get(id(image)) for image in images}
    return found.pop() if len(found) == 1 else None


def _settings(values: Fields) -> Hashable:
    """Tells settings apart; None if some are tensors or other data, so that they cannot be told apart by their text."""
    return repr(sorted(values.items(), key=str)) if all(map(_is_setting, values.values())) else None


def _is_setting(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_setting, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, str | int | float | bool | enum.Enum)


class SharedImageProcessor(wrapt.ObjectProxy):
    """An image processor that cuts each image of a prompt to patches once."""

    def __init__(self, wrapped: "BaseImageProcessor", owners: Mapping[int, PromptImages]) -> None:
        super().__init__(wrapped)
        self._self_owners = owners

    def __call__(self, images: "ImageInput | None" = None, *args: object, **kwargs: object) -> "BatchFeature":
        prompt, settings = owner_of(images, self._self_owners), _settings(kwargs)
        if prompt is None or images is None or args or settings is None:
            return self.__wrapped__(images, *args, **kwargs)
        return prompt.process(images, settings, lambda some: self.__wrapped__(some, **kwargs))


class SharedProcessor(wrapt.ObjectProxy):
    """A processor that works on the same text with the same images of a prompt once."""

    def __init__(self, wrapped: "ProcessorMixin", owners: Mapping[int, PromptImages]) -> None:
        super().__init__(wrapped)
        self._self_owners = owners

    def __call__(self, *args: object, **kwargs: object) -> "BatchFeature":
        images, text = kwargs.get("images"), kwargs.get("text")
        prompt = owner_of(images, self._self_owners)
        others = _settings({key: value for key, value in kwargs.items() if key != "images"})
        if prompt is None or not isinstance(images, list) or args or others is None or not isinstance(text, list):
            return self.__wrapped__(*args, **kwargs)
        key = (tuple(map(id, images)), "text", others)
        return prompt.once(key, lambda: self.__wrapped__(**kwargs))
