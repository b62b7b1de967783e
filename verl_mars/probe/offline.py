"""Questions to a model on this machine, through transformers: batched, on a CPU or a CUDA device."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice

from verl_mars._compat import define_missing_torchvision_ops
from verl_mars.fields import FieldDict
from verl_mars.probe.engine import Answer, ProbeError, Record
from verl_mars.probe.pictures import Pictures
from verl_mars.probe.questions import Question, Sampling


class Offline:
    """A model folder, or a name on the hub.

    Raises:
        ProbeError: it cannot be loaded, or takes no images.
    """

    def __init__(
        self, path: str, pictures: Pictures, sampling: Sampling, *, batch: int = 16, device: str | None = None
    ) -> None:
        define_missing_torchvision_ops()  # before transformers, which imports torchvision
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        self.path, self.pictures, self.sampling, self.batch = path, pictures, sampling, batch
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            config = AutoConfig.from_pretrained(path)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ProbeError(f"--model {path}: no model folder and no model of the hub ({reason})") from None
        try:
            self.processor = AutoProcessor.from_pretrained(path)
            dtype = torch.float32 if self.device.type == "cpu" else "auto"
            self.model = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0][:200]
            raise ProbeError(
                f"--model {path}: a {config.model_type} model cannot be loaded as a vision-language model ({reason})"
            ) from None
        if not hasattr(self.processor, "image_processor"):
            raise ProbeError(f"--model {path}: a {config.model_type} model takes no images; choose one that does")
        self.model = self.model.to(self.device).eval()
        self.processor.tokenizer.padding_side = "left"

    def check(self, question: Question) -> None:
        """Ask one question, so that a prompt that the model cannot take is said first.

        Raises:
            ProbeError: the model cannot take it.
        """
        try:
            self._answers([question])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ProbeError(f"--model {self.path} cannot take the first question: {error}") from error

    def ask(self, questions: Iterator[Question], record: Record) -> None:
        """Ask them all, in batches."""
        while batch := list(islice(questions, self.batch)):
            for question, answer in zip(batch, self._answers(batch), strict=True):
                record(question, answer)

    def _answers(self, questions: Sequence[Question]) -> list[Answer]:
        import torch

        texts = [self._text(question) for question in questions]
        images = [
            self.pictures.load(part).open()
            for question in questions
            for message in question.messages
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image"
        ]
        inputs = self.processor(text=texts, images=images or None, padding=True, return_tensors="pt").to(self.device)
        width = inputs["input_ids"].shape[1]
        how: FieldDict = {"do_sample": False}
        if self.sampling.temperature > 0:
            how = {"do_sample": True, "temperature": self.sampling.temperature, "top_p": 1.0, "top_k": 0}
        draws = f"{questions[0].seed}|{'|'.join(question.key for question in questions)}"
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []), torch.inference_mode():
            torch.manual_seed(int.from_bytes(hashlib.blake2b(draws.encode(), digest_size=7).digest(), "big"))
            made = self.model.generate(**inputs, max_new_tokens=self.sampling.max_tokens, **how)
        return [self._answer(tokens) for tokens in made[:, width:].tolist()]

    def _text(self, question: Question) -> str:
        messages = [
            {"role": m["role"], "content": [_bare(part) for part in m["content"]]}
            if isinstance(m["content"], list)
            else m
            for m in question.messages
        ]
        text: str = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def _answer(self, tokens: list[int]) -> Answer:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        length = next((i for i, token in enumerate(tokens) if token in ends), None)
        kept = tokens if length is None else tokens[:length]
        text: str = self.processor.tokenizer.decode(kept, skip_special_tokens=True)
        return Answer(text, length is None, len(kept))


def _bare(part: FieldDict) -> FieldDict:
    """What a chat template looks at."""
    return {"type": "image"} if part["type"] == "image" else part
