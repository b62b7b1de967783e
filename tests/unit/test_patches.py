"""Masked patches: the same pixels as of an image that was masked before it was processed."""

import numpy as np
import pytest
import torch
from PIL import Image

from verl_mars._compat import define_missing_torchvision_ops
from verl_mars.vision.patches import MASK_PATCH, PatchLayout, mask_patches

define_missing_torchvision_ops()  # the plugin does it in every process of a run
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor  # noqa: E402


class Processor:
    """As much of a processor as holds an image processor."""

    def __init__(self, patch):
        self.image_processor = Qwen2VLImageProcessor(patch_size=patch, merge_size=2, min_pixels=1, max_pixels=2**20)


def picture(width, height, seed):
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def blackened(image, generator, share):
    """What PAPO's code does to an image before it is processed, patch by patch, with draws from the generator."""
    pixels = np.array(image)
    high, wide = pixels.shape[:2]
    draws = torch.rand(-(-high // MASK_PATCH), -(-wide // MASK_PATCH), generator=generator)
    for y, x in (draws < share).nonzero().tolist():
        pixels[y * MASK_PATCH : (y + 1) * MASK_PATCH, x * MASK_PATCH : (x + 1) * MASK_PATCH] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("patch", [14, 16])  # of Qwen2.5-VL; of Qwen3-VL, where masked patches cut through the model's
def test_it_is_as_if_the_images_had_been_masked_before_they_were_processed(patch):
    processor = Processor(patch)
    images = [picture(patch * 4, patch * 6, 0), picture(patch * 2, patch * 2, 1)]
    made = dict(processor.image_processor(images=images, return_tensors="pt"))
    got = mask_patches(made, PatchLayout.of(processor), 0.6, seed=5)
    generator = torch.Generator().manual_seed(5)
    masked = [blackened(image, generator, 0.6) for image in images]
    expected = dict(processor.image_processor(images=masked, return_tensors="pt"))
    torch.testing.assert_close(got["pixel_values"], expected["pixel_values"], atol=1e-6, rtol=0)
    assert torch.equal(got["image_grid_thw"], made["image_grid_thw"])
    assert not torch.equal(got["pixel_values"], made["pixel_values"])


def inputs(rows=1000, kind=torch.float32):
    generator = torch.Generator().manual_seed(0)
    grids = torch.tensor([[1, 20, 30], [1, 20, 20]])
    return {"pixel_values": torch.randn(rows, 3 * 2 * 14 * 14, generator=generator).to(kind), "image_grid_thw": grids}


LAYOUT = PatchLayout(14, 2, (-1.8, -1.75, -1.48))


def test_same_seed_same_patches_and_the_share_is_kept():
    made = inputs()
    once, again, other = (mask_patches(made, LAYOUT, 0.6, seed)["pixel_values"] for seed in (3, 3, 4))
    assert torch.equal(once, again) and not torch.equal(once, other)
    changed = (once != made["pixel_values"]).all(1)
    assert changed.float().mean() == pytest.approx(0.6, abs=0.05)
    assert torch.equal(once[~changed], made["pixel_values"][~changed])  # a patch of 14 is masked whole or not at all
    assert sorted(set(once[changed].unique().tolist())) == pytest.approx(sorted(LAYOUT.black))


def test_the_shares_of_nothing_and_everything():
    made = inputs()
    assert torch.equal(mask_patches(made, LAYOUT, 0.0, 1)["pixel_values"], made["pixel_values"])
    assert mask_patches(made, LAYOUT, 1.0, 1)["pixel_values"].unique().numel() == 3


def test_bf16_pixels_and_whatever_else_there_is_stay_as_they_are():
    made = {**inputs(kind=torch.bfloat16), "second_per_grid_ts": "kept"}
    got = mask_patches(made, LAYOUT, 0.5, 1)
    assert got["pixel_values"].dtype == torch.bfloat16 and got["second_per_grid_ts"] == "kept"


def test_pixels_that_do_not_fit_their_grids_are_refused():
    with pytest.raises(ValueError, match=r"1000 patches of 14 x 14 pixels, but pixel_values is \(999, 1176\)"):
        mask_patches(inputs(rows=999), LAYOUT, 0.5, 1)


def test_a_processor_of_another_family_is_refused():
    class Other:
        image_processor = object()

    with pytest.raises(ValueError, match="object has no `patch_size` and `merge_size`.*Qwen-VL family"):
        PatchLayout.of(Other())
