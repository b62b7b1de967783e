"""What the tests of stock verl on rows share."""

import pyarrow as pa
import pyarrow.parquet as pq

from verl_mars.data.schema import ARROW_SCHEMA
from verl_mars.data.validate import validate


def images_of(dataset, row):
    """The images as they go to the processor."""
    return dataset._process_multi_modal_info(row["raw_prompt"], dataset.image_patch_size, dataset.config)[0]


def tokens_of(dataset, row, own):
    """Tokens of the prompt, as the agent loop counts them."""
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    text = own.apply_chat_template(row["raw_prompt"], add_generation_prompt=True, tokenize=False)
    images = images_of(dataset, row)
    return build_multimodal_processor_inputs(own, text=[text], images=images)["input_ids"].shape[1]


def write(path, rows, schema=ARROW_SCHEMA):
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return str(path)


def with_type(column, kind):
    return ARROW_SCHEMA.set(ARROW_SCHEMA.get_field_index(column), pa.field(column, kind))


def faults(file, **options):
    return validate([file] if isinstance(file, str) else file, sample=2, **options).check
