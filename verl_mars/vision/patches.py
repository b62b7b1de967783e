"""Masked patches: pixels that an image processor made, with random patches of the images black."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from verl_mars.fields import FieldDict, Fields

if TYPE_CHECKING:
    from transformers import ProcessorMixin

MASK_PATCH = 14
"""Edge of a masked patch in pixels: that of PAPO's and VPPO's code, and of the patches of Qwen2.5-VL."""


@dataclass(frozen=True)
class PatchLayout:
    """How an image processor of the Qwen-VL family lays out pixels: a row of ``pixel_values`` for each patch.

    A row is (channel, time, patch, patch), flattened; the rows of an image are (height / merge, width / merge, merge,
    merge), so that the patches of one visual token are neighbours. Pixels are (value - mean) / std of values from 0 to
    1.
    """

    patch: int
    merge: int
    black: tuple[float, ...]
    """What a black pixel is, by channel."""

    @classmethod
    def of(cls, processor: "ProcessorMixin") -> "PatchLayout":
        """The layout of a processor.

        Raises:
            ValueError: its image processor does not lay pixels out so.
        """
        images = getattr(processor, "image_processor", None)
        patch, merge = getattr(images, "patch_size", None), getattr(images, "merge_size", None)
        if images is None or not isinstance(patch, int) or not isinstance(merge, int):
            raise ValueError(
                f"the image processor {type(images).__name__} has no `patch_size` and `merge_size`: patches of images "
                "can be masked for models of the Qwen-VL family only"
            )
        scales = zip(images.image_mean, images.image_std, strict=True)
        black = (-mean / std for mean, std in scales) if images.do_normalize else (0.0 for _ in scales)
        return cls(patch, merge, tuple(black))


def mask_patches(visual_inputs: Fields, layout: PatchLayout, share: float, seed: int) -> FieldDict:
    """Visual inputs with each 14-pixel patch of each image black with probability ``share``.

    The pixels are those that the processor made, at the size at which the model sees the image, so nothing is processed
    again. Same seed, same patches. Videos are left as they are.

    Args:
        visual_inputs: ``pixel_values`` (rows, channels x time x patch x patch) and ``image_grid_thw`` (images, 3).
        layout: of the processor that made them.
        share: a probability from 0 to 1.
        seed: below 2**63.

    Raises:
        ValueError: pixels and grids do not fit.
    """
    pixels, grids, p, m = visual_inputs["pixel_values"], visual_inputs["image_grid_thw"], layout.patch, layout.merge
    generator, rows = torch.Generator().manual_seed(seed), []
    for time, high, wide in grids.tolist():
        cells = torch.rand(-(-high * p // MASK_PATCH), -(-wide * p // MASK_PATCH), generator=generator) < share
        hidden = cells.repeat_interleave(MASK_PATCH, 0).repeat_interleave(MASK_PATCH, 1)[: high * p, : wide * p]
        hidden = hidden.reshape(high // m, m, p, wide // m, m, p).permute(0, 3, 1, 4, 2, 5)
        rows.append(hidden.reshape(1, high * wide, 1, 1, p, p).expand(time, -1, -1, -1, -1, -1).flatten(0, 1))
    mask = torch.cat(rows)
    if len(mask) != len(pixels) or pixels.shape[1] % (len(layout.black) * p * p):
        raise ValueError(
            f"image_grid_thw {grids.tolist()} has {len(mask)} patches of {p} x {p} pixels, but pixel_values is "
            f"{tuple(pixels.shape)}"
        )
    values = pixels.unflatten(1, (len(layout.black), -1, p, p))
    black = torch.tensor(layout.black, dtype=pixels.dtype).view(1, -1, 1, 1, 1)
    return {**visual_inputs, "pixel_values": torch.where(mask, black, values).flatten(1)}
