"""What can be wrong with data, each kind with a code and its cure; ``docs/data-format.md`` lists them all."""

from verl_mars.errors import DataError, Problem, SampleError

__all__ = ["CURES", "DataError", "Problem", "SampleError"]

CURES: dict[str, str] = {
    # the row
    "no_sources": "Add the column `sources`: a list of {name, images, prompt, ground_truth}.",
    "source_name": "Give every source of a row a name of its own.",
    "source_images": "List in `sources[].images` the positions (from 0) of the source's images in `images`.",
    "source_prompt": "Write one <image> into the source's own prompt for each of its images, or leave the prompt null.",
    "image_count": "Write exactly one <image> into the prompt for each image, in the order of `images`.",
    "blind": "Fill `images`, or set data.image_key to the column that has them: verl would train on the text alone.",
    "media_tag": "Remove <image>, <video> and <audio> from questions, answers and recognised text.",
    "too_many_images": "Raise actor_rollout_ref.rollout.limit_images, or convert with fewer images a row.",
    "prompt": "Write `prompt` as a list of {role, content}, content a string.",
    "images_type": "Write `images` as a list of {image: absolute path}, or of {bytes, path}.",
    "column": "Rename the column: verl or verl-mars uses the name itself.",
    "missing_column": "Add the column.",
    "index": "Write `extra_info.index`: an integer of its own for each row.",
    "duplicate_id": "Give each sample an id of its own.",
    "image_sizes": "Write `extra_info.image_sizes`: [width, height] of each image.",
    # ground truth
    "task": "Set `extra_info.task` to one of the tasks that the message names.",
    "ground_truth": "Write the ground truth as the JSON text of its task; see docs/data-format.md.",
    "box": "Correct the box: [x1, y1, x2, y2] in pixels of the original image, x1 < x2, y1 < y2, inside the image.",
    "zero_area": "Correct or remove the box: it covers no pixel.",
    "answer": "Give at least one answer that is not empty.",
    "choices": "Write the choices and an answer letter that is one of them.",
    "coordinates": "Name the frame in which answers give boxes, or leave it out to take the model's own.",
    # images
    "missing_image": "Put the file there, or correct the path.",
    "broken_image": "Replace the file: it is not an image that Pillow can read.",
    "truncated_image": "Copy or download the file again: its end is missing.",
    "bomb": "Scale the image down before conversion.",
    "sixteen_bit": "Convert the data set with `verl-mars data convert`: it renders such images to ordinary PNG.",
    "exif": "Convert the data set with `verl-mars data convert`: it turns the pixels and removes the EXIF entry.",
    "frames": "Keep one frame of the file.",
    "aspect_ratio": "Crop the image: the processor takes none whose sides differ by more than 200 times.",
    "relative_path": "Write absolute paths: a Ray worker has another working directory.",
    "size_mismatch": "Check that the annotation belongs to this image: they disagree about its size.",
    "empty_depth": "Leave the frame out: it has no measured depth at all.",
    "depth": "Pick another --depth-encoding, or correct the depth file.",
    # raw data
    "outside_root": "Put the file under --root, or allow its folder with --allow-root.",
    "annotation": "Correct the annotation file.",
    "unpaired": "Add the missing file of the pair, or remove its partner.",
    "record": "Correct the record; `verl-mars data list DATASET` shows what it may contain.",
    # files
    "file": "Pass files that end in .parquet, .json or .jsonl, or lists of them; verl takes no folder and no pattern.",
    "types": "Write all files with the same column types, best with verl_mars.data.schema.write_rows.",
    "row_group": "Write row groups of at most 128 MB; a row with larger images can only hold paths.",
    "too_long": "Raise data.max_prompt_length, or lower the images' max_pixels.",
    "length": "Report this: the computed prompt length differs from the processor's.",
    "leak": "Split by scene or group, so that no image is both in training and in validation files.",
    "loading": "See the message: verl's own reader or the processor refused the row.",
}
"""Code of a problem -> what to do about it."""
