"""Batched sampling, compared with one request at a time, with transformers' generate and with teacher forcing."""

import random

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_vlm import END, IMAGE, VOCABULARY, build_qwen2_5_vl, build_qwen2_vl, build_qwen3_vl, build_text_model

from verl_mars.cpu import sampling
from verl_mars.cpu.sampling import BatchSampler, Prompt, Request, RowParams, SamplingParams, choose_tokens


@pytest.fixture(scope="module")
def model():
    return build_qwen2_5_vl()


@pytest.fixture(scope="module")
def sampler(model):
    return BatchSampler(model, stop_token_ids=[END], forbidden_token_ids=[IMAGE, 4])


def make_prompt(sampler, text_length, images=0, seed=0, grid=(1, 4, 4)):
    """Images first, each in its own vision brackets, then random text."""
    draw = np.random.default_rng((seed, text_length, images))
    merged = grid[0] * grid[1] * grid[2] // 4
    ids = [5, *[IMAGE] * merged, 6] * images + draw.integers(8, VOCABULARY, text_length).tolist()
    inputs = {}
    if images:
        patches = torch.from_numpy(draw.standard_normal((images * merged * 4, 3 * 2 * 14 * 14), dtype=np.float32))
        inputs = {"pixel_values": patches, "image_grid_thw": torch.tensor([grid] * images)}
    return Prompt(tuple(ids), sampler.positions(ids, IMAGE, inputs), inputs, images * merged)


def mixed_requests(sampler):
    """Different lengths, numbers of images, parameters and shared prompts; 37 rows."""
    prompts = [make_prompt(sampler, *shape) for shape in ((1, 0), (7, 1), (9, 2), (9, 1, 5), (40, 3), (23, 0), (70, 2))]
    params = [
        SamplingParams(max_tokens=12),
        SamplingParams(max_tokens=7, temperature=0),
        SamplingParams(max_tokens=12, temperature=0.7, top_p=0.8),
        SamplingParams(max_tokens=9, temperature=1.3, top_k=5),
        SamplingParams(max_tokens=10, repetition_penalty=1.3, ignore_eos=True),
        SamplingParams(max_tokens=3, temperature=0.9, top_k=20, top_p=0.9, stop_token_ids=(11, 12, 13)),
    ]
    return [Request(prompts[i % 7], params[i % 6], seed=i) for i in range(37)]


def told(response):
    return response.token_ids, response.log_probs, response.stop_reason


def scores_of(model, request, token_ids):
    """Logits (T, V) under teacher forcing: the whole sequence at once, without cache or padding."""
    ids = torch.tensor([[*request.prompt.token_ids, *token_ids]])
    types = (ids == IMAGE).int()
    with torch.inference_mode():
        logits = model(input_ids=ids, mm_token_type_ids=types, **request.prompt.images).logits[0].float()
    return logits[len(request.prompt.token_ids) - 1 : -1]


# ---------------------------------------------------------------- a batch


@pytest.mark.slow
def test_a_batch_is_its_requests_one_at_a_time_bit_for_bit(sampler):
    requests = mixed_requests(sampler)
    together = sampler.sample(requests)
    for request, response in zip(requests, together, strict=True):
        assert told(sampler.sample([request])[0]) == told(response)


@pytest.mark.slow
def test_the_order_and_the_company_of_requests_change_nothing(sampler):
    requests = mixed_requests(sampler)
    expected = [told(r) for r in sampler.sample(requests)]
    shuffled = random.Random(0).sample(range(37), 37)
    for part in (shuffled, shuffled[:20], shuffled[30:]):
        assert [told(r) for r in sampler.sample([requests[i] for i in part])] == [expected[i] for i in part]


@pytest.mark.slow
def test_small_limits_on_rows_and_prompt_tokens_change_nothing(model, sampler):
    requests = mixed_requests(sampler)
    small = BatchSampler(model, stop_token_ids=[END], forbidden_token_ids=[IMAGE, 4], max_rows=3, max_prompt_tokens=100)
    assert [told(r) for r in small.sample(requests)] == [told(r) for r in sampler.sample(requests)]


def test_requests_of_one_prompt_read_it_once(sampler, monkeypatch):
    read = []
    monkeypatch.setattr(
        sampler, "_forward", lambda ids, *a, **k: read.append(tuple(ids.shape)) or forward(ids, *a, **k)
    )
    forward = BatchSampler._forward.__get__(sampler)
    prompt = make_prompt(sampler, 30, images=4)
    sampler.sample([Request(prompt, SamplingParams(max_tokens=2, ignore_eos=True), seed) for seed in range(20)])
    assert read == [(1, 64), (32, 1), (32, 1)]


def test_rows_that_have_ended_leave_the_batch(sampler, monkeypatch):
    rows = []
    forward = BatchSampler._forward.__get__(sampler)
    monkeypatch.setattr(sampler, "_forward", lambda ids, *a, **k: rows.append(len(ids)) or forward(ids, *a, **k))
    prompt = make_prompt(sampler, 9)
    lengths = [1] * 10 + [2] * 10 + [5] * 20
    requests = [Request(prompt, SamplingParams(max_tokens=n, ignore_eos=True), seed) for seed, n in enumerate(lengths)]
    responses = sampler.sample(requests)
    assert [len(r.token_ids) for r in responses] == lengths
    assert rows == [1, 48, 32, 32, 32, 32]
    assert [told(r) for r in responses[20:22]] == [told(r) for r in sampler.sample(requests[20:22])]


# ---------------------------------------------------------------- against references


def generated(model, prompt, count):
    """Greedy tokens of transformers' own generate, one prompt at a time and without padding."""
    ids = torch.tensor([prompt.token_ids])
    inputs = {"mm_token_type_ids": (ids == IMAGE).int(), **prompt.images} if prompt.images else {}
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        suppress_tokens=[IMAGE, 4],
        **inputs,
    )
    return output[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("build", [build_qwen2_5_vl, build_qwen2_vl, build_qwen3_vl, build_text_model])
def test_greedy_is_transformers_generate(build):
    model = build()
    sampler = BatchSampler(model, stop_token_ids=[END], forbidden_token_ids=[IMAGE, 4])
    shapes = [(12, 0), (30, 0)] if build is build_text_model else [(12, 0), (5, 1), (8, 2), (30, 4)]
    prompts = [make_prompt(sampler, *shape) for shape in shapes]
    greedy = SamplingParams(max_tokens=20, temperature=0)
    responses = sampler.sample([Request(prompt, greedy, seed=0) for prompt in prompts])
    assert [r.token_ids for r in responses] == [generated(model, prompt, 20) for prompt in prompts]
    assert len({tuple(r.token_ids) for r in responses}) == len(prompts)


def test_log_probs_are_those_of_teacher_forcing_at_the_temperature(model, sampler):
    requests = mixed_requests(sampler)
    worst = 0.0
    for request, response in zip(requests, sampler.sample(requests), strict=True):
        temperature = request.params.temperature or 1.0
        log_probs = (scores_of(model, request, response.token_ids) / temperature).log_softmax(-1)
        expected = log_probs.gather(-1, torch.tensor(response.token_ids)[:, None])[:, 0]
        worst = max(worst, (expected - torch.tensor(response.log_probs)).abs().max().item())
    assert worst < 1e-5


def test_positions_are_those_of_the_whole_sequence(model, sampler):
    request = Request(make_prompt(sampler, 9, images=2), SamplingParams(max_tokens=6, ignore_eos=True), seed=1)
    ids = [*request.prompt.token_ids, *sampler.sample([request])[0].token_ids]
    whole = sampler.positions(ids, IMAGE, request.prompt.images)
    length = len(request.prompt.token_ids)
    assert torch.equal(whole[:, :length], request.prompt.positions)
    assert torch.equal(whole[:, length - 1 :], whole[:, length - 1 : length] + torch.arange(7))


def test_samples_have_the_models_distribution(model, sampler):
    prompt = make_prompt(sampler, 9, images=1)
    requests = [Request(prompt, SamplingParams(max_tokens=1, temperature=2.0), seed) for seed in range(3000)]
    counts = np.bincount([r.token_ids[0] for r in sampler.sample(requests)], minlength=VOCABULARY)
    scores = scores_of(model, requests[0], [0])[0] / 2.0
    scores[[IMAGE, 4]] = -torch.inf
    expected = 3000 * scores.double().softmax(-1).numpy()
    assert counts[[IMAGE, 4]].sum() == 0
    assert expected.min(initial=9, where=expected > 0) > 5  # what the test assumes
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_the_share_of_forbidden_tokens_is_measured(model, sampler):
    request = Request(make_prompt(sampler, 9), SamplingParams(max_tokens=3, ignore_eos=True), seed=1)
    sampler.take_forbidden_share()
    scores = scores_of(model, request, sampler.sample([request])[0].token_ids)
    expected = scores.softmax(-1)[:, [IMAGE, 4]].sum(-1).mean().item()
    assert expected > 0
    assert sampler.take_forbidden_share() == pytest.approx(expected, rel=1e-4)
    assert sampler.take_forbidden_share() == 0


# ---------------------------------------------------------------- random streams


def test_seeds_decide(sampler):
    prompt = make_prompt(sampler, 9)
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    a, b, c = sampler.sample([Request(prompt, params, seed) for seed in (1, 1, 2)])
    assert told(a) == told(b)
    assert a.token_ids != c.token_ids


def test_a_request_cut_short_and_continued_samples_what_it_would_have_sampled(sampler):
    prompt = make_prompt(sampler, 9, images=2)
    whole = sampler.sample([Request(prompt, SamplingParams(max_tokens=14, ignore_eos=True), seed=5)])[0]
    ids = [*prompt.token_ids, *whole.token_ids[:6]]
    rest = Prompt(tuple(ids), sampler.positions(ids, IMAGE, prompt.images), prompt.images, prompt.image_tokens)
    continued = sampler.sample([Request(rest, SamplingParams(max_tokens=8, ignore_eos=True), seed=5)])[0]
    assert continued.token_ids == whole.token_ids[6:]
    assert continued.log_probs == pytest.approx(whole.log_probs[6:], abs=1e-5)


def test_global_random_state_is_neither_read_nor_written(sampler):
    request = mixed_requests(sampler)[0]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = told(sampler.sample([request])[0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert told(sampler.sample([request])[0]) == first


# ---------------------------------------------------------------- ends


def test_an_end_token_is_the_last_token(model, sampler):
    ends = set(range(8, 28))
    stopping = BatchSampler(model, stop_token_ids=sorted(ends))
    params = SamplingParams(max_tokens=200, temperature=3.0)
    for response in stopping.sample([Request(make_prompt(sampler, 9), params, seed) for seed in range(20)]):
        assert response.stop_reason == "stop"
        assert [token in ends for token in response.token_ids].index(True) == len(response.token_ids) - 1


def test_ignored_ends_and_own_ends(sampler):
    prompt = make_prompt(sampler, 9)
    ignoring = SamplingParams(max_tokens=60, temperature=3.0, ignore_eos=True)
    response = sampler.sample([Request(prompt, ignoring, seed=0)])[0]
    assert (len(response.token_ids), response.stop_reason) == (60, "length")
    assert END in response.token_ids
    own = response.token_ids[3]
    stopping = SamplingParams(max_tokens=60, temperature=3.0, ignore_eos=True, stop_token_ids=(own,))
    stopped = sampler.sample([Request(prompt, stopping, seed=0)])[0]
    first = response.token_ids.index(own)
    assert (stopped.token_ids, stopped.stop_reason) == (response.token_ids[: first + 1], "stop")


def test_an_aborted_batch_gives_what_it_has(sampler):
    steps = iter([False] * 5)
    requests = [Request(make_prompt(sampler, 9), SamplingParams(max_tokens=n, ignore_eos=True), n) for n in (2, 50)]
    short, cut = sampler.sample(requests, lambda: next(steps, True))
    assert (len(short.token_ids), short.stop_reason) == (2, "length")
    assert (len(cut.token_ids), cut.stop_reason) == (4, "aborted")
    whole = sampler.sample(requests)[1]
    assert cut.token_ids == whole.token_ids[:4]
    assert sampler.sample(requests, lambda: True)[1].token_ids == []


# ---------------------------------------------------------------- one token


def choose(logits, uniform, *, seen=None, forbidden=(), **params):
    logits = torch.as_tensor(logits, dtype=torch.float32)[None]
    mask = torch.zeros(logits.shape[-1], dtype=torch.bool)
    mask[list(forbidden)] = True
    rows = RowParams.from_params([SamplingParams(max_tokens=1, **params)], mask)
    token, log_prob, mass = choose_tokens(logits, rows, torch.tensor([uniform], dtype=torch.float64), seen)
    assert mass.item() == pytest.approx(
        logits.softmax(-1)[0, list(forbidden)].sum().item() if forbidden else 0, abs=1e-6
    )
    return token.item(), log_prob.item()


LOGITS = np.log([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.2999, 1), (0.3001, 2), (0.5999, 2), (0.6001, 3)]
)
def test_the_cumulative_distribution_is_inverted_in_the_order_of_ids(uniform, token):
    assert choose(LOGITS, uniform) == (token, pytest.approx(LOGITS[token], abs=1e-6))


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        ({"top_k": 1}, {3}),
        ({"top_k": 2}, {2, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 0.01}, {3}),
        ({"top_p": 0.3999}, {3}),
        ({"top_p": 0.4001}, {2, 3}),
        ({"top_p": 0.8999}, {1, 2, 3}),
        ({"top_k": 3, "top_p": 0.5}, {2, 3}),  # 0.4 / 0.9 < 0.5
        ({"forbidden": [3]}, {0, 1, 2}),
        ({"forbidden": [3], "top_k": 1}, {2}),
        ({"forbidden": [3], "temperature": 0}, {2}),
        ({"temperature": 0}, {3}),
    ],
)
def test_truncation_shapes_what_is_drawn_and_not_what_is_reported(params, allowed):
    drawn = dict(choose(LOGITS, uniform, **params) for uniform in [*np.linspace(0, 1, 50, endpoint=False), 1 - 2**-53])
    assert set(drawn) == allowed
    assert drawn == {token: pytest.approx(LOGITS[token], abs=1e-6) for token in allowed}


def test_repetition_penalty_weakens_what_was_seen():
    seen = torch.tensor([[False, False, False, True]])
    assert choose([0.0, -1.0, 1.0, 1.5], 0.5, seen=seen, temperature=0, repetition_penalty=2.0)[0] == 2
    seen = torch.tensor([[True, False, False, False]])
    assert choose([-1.0, -1.5, -9.0, -9.0], 0.5, seen=seen, temperature=0, repetition_penalty=2.0)[0] == 1


def test_probabilities_of_zero_are_never_drawn():
    logits = [-np.inf, 0.0, -np.inf, 0.0, -np.inf]
    assert {choose(logits, u)[0] for u in (0.0, 0.5, np.nextafter(0.5, 0), 1 - 2**-53)} == {1, 3}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("repetition_penalty", 0),
    ],
)
def test_impossible_parameters_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"{key} = {value}: allowed is"):
        SamplingParams(**{"max_tokens": 1, key: value})


@pytest.mark.parametrize(
    ("length", "width"), [(1, 16), (17, 16), (18, 24), (25, 24), (26, 32), (34, 48), (50, 64), (66, 96)]
)
def test_the_width_depends_on_the_prompt_alone(length, width):
    prompt = Prompt(tuple(range(length)), torch.zeros(1, length))
    assert Request(prompt, SamplingParams(max_tokens=1), 0).width == width
    assert width % sampling._SMALLEST_WIDTH == 0 or width % 8 == 0
