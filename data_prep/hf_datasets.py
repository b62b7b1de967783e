"""Folders of Hugging Face ``datasets``: ``save_to_disk`` (Arrow), or Parquet files with Image features."""

from pydantic import Field

from verl_mars.data.sample import Findings
from verl_mars.data.tables import Line
from verl_mars.data_prep._records import Record, RecordConverter, RecordOptions, as_list, first_of, needed

QUESTION = ("question", "problem", "query", "prompt", "instruction")
ANSWER = ("answer", "solution", "answers", "ground_truth", "label")
IMAGES = ("images", "image", "img")
CHOICES = ("choices", "options")


class HfOptions(RecordOptions):
    """Columns, where they have other names."""

    question: str = Field(default="", description=f"Column of the question; by default one of {', '.join(QUESTION)}.")
    answer: str = Field(default="", description=f"Column of the answer; by default one of {', '.join(ANSWER)}.")
    images: str = Field(default="", description="Columns of images, as rgb,depth; by default images, image or img.")


class HfDatasets(RecordConverter):
    """One row of a data set is one question. Several columns of images are taken in the order of ``images``."""

    name = "hf_datasets"
    title = "folders of Hugging Face datasets: Arrow, or Parquet with Image features"
    url = "https://huggingface.co/docs/datasets"
    layout = "  a folder of Dataset.save_to_disk, or one with train-*.parquet, validation-*.parquet (also under data/)"
    options = HfOptions

    def record(self, line: Line, options: HfOptions, findings: Findings) -> Record:
        """See :class:`RecordConverter`."""
        content = line.content
        question = (options.question,) if options.question else QUESTION
        answer = (options.answer,) if options.answer else ANSWER
        names = [name.strip() for name in options.images.split(",") if name.strip()]
        if names:
            images = [image for name in names for image in as_list(needed(content, name))]
        else:
            images = as_list(first_of(content, *IMAGES))
        known = frozenset([*question, *answer, *(names or IMAGES), *CHOICES, "id", "split"])
        self.unread(line, known, findings)
        return Record(
            origin=line.origin,
            sample_id=str(first_of(content, "id") or f"{line.split or 'row'}-{line.number}"),
            question=needed(content, *question),
            answer=needed(content, *answer),
            images=images,
            choices=first_of(content, *CHOICES),
            split=first_of(content, "split"),
        )


CONVERTER = HfDatasets()
