"""Batched sampling from a transformers model: a left-padded loop with a key-value cache. Knows nothing of Ray or verl.

Results are batch-invariant: the tokens and log-probs of a request are the same, bit for bit, whatever other requests
share its batch. Reinforcement learning depends on it. Three things make it so:

* its random numbers come from its own seed, one for each position of the sequence, so a request that is cut short and
  continued draws the same numbers as an uninterrupted one;
* its prompt is padded to a width that depends only on its length, and only rows of one width share a batch;
* rows are filled up to a multiple of :data:`ROW_MULTIPLE`: below it, matrix products on a CPU sum in another order,
  and some processors divide the rows among threads (OMP_NUM_THREADS; the overlay ``hardware: cpu`` sets one).

Log-probs are those that verl's actor computes, ``log_softmax(logits / temperature)`` over the whole vocabulary at the
sampled token. Top-k, top-p, repetition penalty and forbidden tokens shape the draw, but the reported log-probs are not
renormalised for them. For greedy rows the temperature in that formula is 1. vLLM reports the same with
``logprobs_mode=raw_logprobs`` and temperature 1; with ``processed_logprobs``, verl's default, it reports the truncated
and renormalised distribution instead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

ROW_MULTIPLE = 16
"""With fewer rows, the CPU's BLAS sums a matrix product in another order (measured with MKL)."""

_SMALLEST_WIDTH = 16


def _rows_needed(rows: int) -> int:
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


def _identity(request: "Request") -> tuple:
    """Sort key of a request that does not depend on its time of arrival."""
    return (request.prompt.token_ids, request.seed, repr(request.params))


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of a request. ``temperature=0``: greedy; ``top_k`` of 0 or -1 and ``top_p`` of 1: off."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[bool, str]] = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0, "0 (greedy) or above"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= -1, "-1 or 0 (off) or a number of tokens"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
        }
        for key, (fine, values) in allowed.items():
            if not fine:
                raise ValueError(f"sampling parameter {key} = {getattr(self, key)!r}: allowed is {values}")


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it.

    ``token_ids`` has one placeholder for each merged patch. ``images`` is what the image processor returned, empty for
    a prompt without images. ``positions`` is (3, L) for models with mRoPE, else (1, L).
    """

    token_ids: tuple[int, ...]
    positions: Tensor
    images: Mapping[str, Tensor] = field(default_factory=dict)
    image_tokens: int = 0


@dataclass(frozen=True)
class Request:
    """One sequence to sample. Requests of one prompt share the `Prompt` object, which is then read once."""

    prompt: Prompt
    params: SamplingParams
    seed: int

    @property
    def width(self) -> int:
        """Columns that the prompt but its last token is padded to: 16, 24, 32, 48, 64, 96, ..."""
        width = _SMALLEST_WIDTH
        while width < len(self.prompt.token_ids) - 1:
            width = width * 3 // 2 if width & (width - 1) == 0 else width * 4 // 3
        return width


@dataclass
class Response:
    """``stop_reason`` is ``stop`` (an end token, which is part of the tokens), ``length`` or ``aborted``."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    stop_reason: str = "aborted"

    @property
    def finished(self) -> bool:
        return self.stop_reason != "aborted"

    @property
    def ended(self) -> bool:
        """Whether the last token is an end token."""
        return self.stop_reason == "stop"


def uniform_numbers(seed: int, start: int, count: int) -> np.ndarray:
    """The random numbers of the positions ``start`` to ``start + count`` of the sequence with this seed."""
    return np.random.Generator(np.random.Philox(seed)).random(start + count)[start:]


def _truncate(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Logits (B, V) with ``-inf`` outside each row's top k and then outside its smallest set of probability top p."""
    order = logits.sort(dim=-1, descending=True, stable=True)
    ranked = order.values.clone()
    rank = torch.arange(logits.shape[-1], device=logits.device)
    limit = torch.where(top_k > 0, top_k, logits.shape[-1])
    ranked[rank[None] >= limit[:, None]] = -torch.inf
    probs = ranked.softmax(-1)
    # A token stays if those before it do not yet make up top p, so the first one always stays.
    ranked[(probs.cumsum(-1) - probs >= top_p[:, None]) & (rank[None] > 0) & (top_p[:, None] < 1)] = -torch.inf
    return torch.empty_like(logits).scatter_(-1, order.indices, ranked)


@dataclass
class RowParams:
    """The sampling parameters of B rows as tensors (B,), and what the rows share."""

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    repetition_penalty: Tensor
    forbidden: Tensor  # (V,) bool

    @classmethod
    def from_params(cls, params: Sequence[SamplingParams], forbidden: Tensor) -> "RowParams":
        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(p, name) for p in params], dtype=dtype, device=forbidden.device)

        return cls(
            column("temperature", torch.float32),
            column("top_p", torch.float64),
            column("top_k", torch.long),
            column("repetition_penalty", torch.float32),
            forbidden,
        )

    def select(self, rows: Tensor) -> "RowParams":
        return RowParams(
            self.temperature[rows], self.top_p[rows], self.top_k[rows], self.repetition_penalty[rows], self.forbidden
        )


def choose_tokens(
    logits: Tensor, params: RowParams, uniform: Tensor, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a token for each row by inverting its cumulative distribution in the order of token ids.

    Args:
        logits: (B, V) float32, of the model.
        uniform: (B,) float64 in [0, 1); not used by greedy rows.
        seen: (B, V) bool, the tokens of the sequence so far; needed where a row has a repetition penalty.

    Returns:
        Tokens (B,), their log-probs (B,) as the module's docstring defines them, and the probability of all forbidden
        tokens (B,) in the same distribution.
    """
    greedy = params.temperature == 0
    temperature = torch.where(greedy, 1.0, params.temperature)[:, None]
    reported = (logits / temperature).log_softmax(-1)

    shaped = logits
    if seen is not None:
        penalty = params.repetition_penalty[:, None]
        shaped = torch.where(seen, torch.where(shaped > 0, shaped / penalty, shaped * penalty), shaped)
    shaped = shaped.masked_fill(params.forbidden, -torch.inf)
    tokens = shaped.argmax(-1)
    shaped = shaped.double() / temperature
    truncated = (~greedy & ((params.top_k > 0) | (params.top_p < 1))).nonzero()[:, 0]
    if len(truncated):
        shaped[truncated] = _truncate(shaped[truncated], params.top_k[truncated], params.top_p[truncated])
    cumulative = shaped.softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    # Strictly below the total: the first token whose cumulative probability exceeds the target is a possible one.
    target = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0]
    tokens = torch.where(greedy, tokens, drawn)
    forbidden = reported[:, params.forbidden].exp().sum(-1)
    return tokens, reported.gather(-1, tokens[:, None])[:, 0], forbidden


@dataclass
class _Rows:
    """The state of B rows, of which the first belong to requests and the others repeat one of them as filling."""

    requests: list[int]
    cache: "DynamicCache"
    mask: Tensor  # (B, columns so far)
    tokens: Tensor  # (B,) to be read next
    positions: Tensor  # (3 or 1, B) of those
    params: RowParams
    uniform: Tensor  # (B, most tokens)
    seen: Tensor | None  # (B, V)

    def shrink_to(self, slots: list[int]) -> None:
        """Drop all rows but these where that makes the batch smaller."""
        size = _rows_needed(len(slots))
        if size >= len(self.tokens):
            return
        self.requests = [self.requests[slot] for slot in slots]
        index = torch.tensor([*slots, *[slots[0]] * (size - len(slots))], device=self.tokens.device)
        self.cache.batch_select_indices(index)
        self.mask, self.tokens, self.uniform = self.mask[index], self.tokens[index], self.uniform[index]
        self.positions = self.positions[:, index]
        self.params = self.params.select(index)
        self.seen = None if self.seen is None else self.seen[index]


class BatchSampler:
    """Samples batches of requests from a transformers model with its ``generate``-style forward.

    Args:
        model: a causal language model or one of the Qwen-VL family, in eval mode.
        stop_token_ids: end a sequence, unless a request ignores them.
        forbidden_token_ids: never drawn (placeholders of images, ids beyond the tokenizer); see the module's docstring.
        max_rows: sequences sampled at a time.
        max_prompt_tokens: padded prompt tokens read at a time, at least one prompt.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        stop_token_ids: Sequence[int],
        forbidden_token_ids: Sequence[int] = (),
        max_rows: int = 256,
        max_prompt_tokens: int = 8192,
    ) -> None:
        self.model = model
        self.stop_token_ids = frozenset(stop_token_ids)
        self.max_rows = max_rows
        self.max_prompt_tokens = max_prompt_tokens
        self.text_config = model.config.get_text_config(decoder=True)
        self.forbidden = torch.zeros(len(model.get_output_embeddings().weight), dtype=torch.bool)
        self.forbidden[list(forbidden_token_ids)] = True
        self._forbidden_sum, self._tokens = 0.0, 0

    @property
    def device(self) -> torch.device:
        return self.model.device

    def positions(self, token_ids: Sequence[int], image_token_id: int | None, images: Mapping[str, Tensor]) -> Tensor:
        """The position ids of a prompt, as verl computes them for the actor: (3, L) with mRoPE, else (1, L)."""
        rope_index = getattr(getattr(self.model, "model", self.model), "get_rope_index", None)
        if rope_index is None:
            return torch.arange(len(token_ids))[None]
        ids = torch.tensor([token_ids])
        types = (ids == image_token_id).int() if image_token_id is not None else torch.zeros_like(ids).int()
        grid = images.get("image_grid_thw")
        return rope_index(ids, mm_token_type_ids=types, image_grid_thw=grid, attention_mask=torch.ones_like(ids))[0][
            :, 0
        ]

    def take_forbidden_share(self) -> float:
        """Mean probability of forbidden tokens since the last call: the distance between the policy and its samples."""
        share = self._forbidden_sum / max(1, self._tokens)
        self._forbidden_sum, self._tokens = 0.0, 0
        return share

    @torch.inference_mode()
    def sample(self, requests: Sequence[Request], aborted: Callable[[], bool] = lambda: False) -> list[Response]:
        """A response for each request, in their order; the part sampled so far once `aborted` is true."""
        responses = [Response() for _ in requests]
        order = sorted(range(len(requests)), key=lambda i: (requests[i].width, _identity(requests[i])))
        batch: list[int] = []
        for i in order:
            if batch and not self._fits([requests[j] for j in batch], requests[i]):
                self._sample_batch([requests[j] for j in batch], [responses[j] for j in batch], aborted)
                batch = []
            batch.append(i)
        if batch:
            self._sample_batch([requests[j] for j in batch], [responses[j] for j in batch], aborted)
        return responses

    def _fits(self, batch: Sequence[Request], request: Request) -> bool:
        prompts = {id(r.prompt) for r in [*batch, request]}
        return (
            request.width == batch[0].width
            and len(batch) < self.max_rows
            and len(prompts) * request.width <= self.max_prompt_tokens
        )

    def _read_prompts(self, prompts: Sequence[Prompt], width: int) -> tuple["DynamicCache", Tensor]:
        """The key-value cache of all prompts but their last tokens, and its mask (P, width)."""
        from transformers import DynamicCache

        rows = list(prompts)
        # Few image tokens make a matrix product of few rows in the patch merger.
        while 0 < sum(p.image_tokens for p in rows) < ROW_MULTIPLE:
            rows.append(max(prompts, key=lambda p: p.image_tokens))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.ones(len(rows[0].positions), len(rows), width, dtype=torch.long)
        for row, prompt in enumerate(rows):
            length = len(prompt.token_ids) - 1
            ids[row, width - length :] = torch.tensor(prompt.token_ids[:-1], dtype=torch.long)
            mask[row, width - length :] = 1
            positions[:, row, width - length :] = prompt.positions[:, :-1]
        names = sorted({name for prompt in rows for name in prompt.images})
        images = {name: torch.cat([p.images[name] for p in rows if name in p.images]).to(self.device) for name in names}
        cache = DynamicCache(config=self.text_config)
        self._forward(ids, mask.to(self.device), positions, cache, **images)
        return cache, mask

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: "DynamicCache", **images: Tensor) -> Tensor:
        """Logits (B, V) of the last column."""
        positions = positions.to(self.device)
        output = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask,
            position_ids=positions if len(positions) > 1 else positions[0],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **images,
        )
        return output.logits[:, -1].float()

    def _sample_batch(self, requests: list[Request], responses: list[Response], aborted: Callable[[], bool]) -> None:
        if aborted():
            return
        rows = self._start(requests)
        for step in range(max(r.params.max_tokens for r in requests)):
            if aborted():
                return
            rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(rows.mask), 1)], dim=1)
            logits = self._forward(rows.tokens[:, None], rows.mask, rows.positions[:, :, None], rows.cache)
            rows.tokens, log_probs, forbidden = choose_tokens(logits, rows.params, rows.uniform[:, step], rows.seen)
            rows.positions = rows.positions + 1
            if rows.seen is not None:
                rows.seen = rows.seen.scatter(1, rows.tokens[:, None], True)
            columns = (rows.tokens.tolist(), log_probs.tolist(), forbidden.tolist())
            for i, token, log_prob, mass in zip(rows.requests, *columns, strict=False):  # fillers come last
                if not responses[i].finished:
                    self._append(requests[i], responses[i], token, log_prob)
                    self._forbidden_sum += mass
                    self._tokens += 1
            unfinished = [slot for slot, i in enumerate(rows.requests) if not responses[i].finished]
            if not unfinished:
                return
            rows.shrink_to(unfinished)

    def _start(self, requests: list[Request]) -> "_Rows":
        """Read the prompts and lay out a row for each request, at its prompt's last token."""
        prompts = list({id(r.prompt): r.prompt for r in requests}.values())
        row_of_prompt = {id(prompt): row for row, prompt in enumerate(prompts)}
        cache, prompt_mask = self._read_prompts(prompts, requests[0].width)
        filled = [*requests, *[requests[0]] * (_rows_needed(len(requests)) - len(requests))]
        source = torch.tensor([row_of_prompt[id(r.prompt)] for r in filled])
        cache.batch_select_indices(source.to(self.device))
        uniform = np.zeros((len(filled), max(r.params.max_tokens for r in requests)))
        for row, r in enumerate(filled):
            uniform[row, : r.params.max_tokens] = uniform_numbers(r.seed, len(r.prompt.token_ids), r.params.max_tokens)
        seen = None
        if any(r.params.repetition_penalty != 1 for r in requests):
            seen = torch.zeros(len(filled), len(self.forbidden), dtype=torch.bool)
            for row, r in enumerate(filled):
                seen[row, list(r.prompt.token_ids)] = True
        return _Rows(
            list(range(len(requests))),
            cache,
            prompt_mask[source].to(self.device),
            torch.tensor([r.prompt.token_ids[-1] for r in filled], device=self.device),
            torch.stack([r.prompt.positions[:, -1] for r in filled], dim=1).to(self.device),
            RowParams.from_params([r.params for r in filled], self.forbidden.to(self.device)),
            torch.from_numpy(uniform).to(self.device),
            None if seen is None else seen.to(self.device),
        )

    def _append(self, request: Request, response: Response, token: int, log_prob: float) -> None:
        response.token_ids.append(token)
        response.log_probs.append(log_prob)
        ends = self.stop_token_ids if not request.params.ignore_eos else frozenset()
        if token in ends or token in request.params.stop_token_ids:
            response.stop_reason = "stop"
        elif len(response.token_ids) == request.params.max_tokens:
            response.stop_reason = "length"
