"""The transformers engine against `transformers.generate`, itself in other batches, and its own contract."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from selfcorrect.engines import Engine, Sample, SampleRequest, sample_all, sample_seed
from selfcorrect.engines.local import ragged
from selfcorrect.engines.local.engine import TransformersEngine
from selfcorrect.engines.local.padded import PaddedRunner
from selfcorrect.engines.local.row import Row
from selfcorrect.engines.local.sampling import Settings, StopTexts, choose, uniforms
from selfcorrect.errors import EngineError, ModelError

EOS = 0
VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
CONFIGS: dict[str, Any] = {
    "llama-sdpa": LlamaConfig(**SIZES, tie_word_embeddings=True, attn_implementation="sdpa"),
    "llama-eager": LlamaConfig(**SIZES, attn_implementation="eager"),
    "qwen2": Qwen2Config(**SIZES),
    "mistral-sliding-window": MistralConfig(**SIZES, sliding_window=12),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, eos_token_id=EOS, pad_token_id=EOS
    ),
}


def make_model(config: Any) -> Any:
    """Return a random model with peaked, varied outputs and a habit of ending (about 1 token in 40)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with a few merges: "1 3." takes tokens that end inside and outside words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("w", "r"), ("wr", "o"), ("n", "g"), ("g", "."), ("o", "k"), (".", "Ġ")]
    words = ["<eos>", *alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture(scope="module")
def llama() -> Any:
    return make_model(CONFIGS["llama-sdpa"])


def requests_of(n: int, *, seed: int = 1, **settings: Any) -> list[SampleRequest]:
    """Return requests with prompts of 3 to 40 tokens, each with its own seed."""
    draw = np.random.default_rng(seed)
    defaults = {"max_tokens": 24, "stop_ids": (EOS,)}
    return [
        SampleRequest(
            prompt_ids=tuple(draw.integers(1, VOCABULARY, draw.integers(3, 41)).tolist()),
            seed=sample_seed("test", seed, i),
            **{**defaults, **settings},
        )
        for i in range(n)
    ]


def generate(model: Any, request: SampleRequest) -> tuple[int, ...]:
    """Return what `transformers.generate` gives greedily for one request alone."""
    ids = torch.tensor([request.prompt_ids])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=request.max_tokens, eos_token_id=EOS
    )
    completion = out[0, ids.shape[1] :].tolist()
    return tuple(completion[: completion.index(EOS)] if EOS in completion else completion)


def assert_same(one: Sample, other: Sample) -> None:
    """The same tokens and ending; log-probabilities up to rounding."""
    assert (one.token_ids, one.finish, one.stop_id) == (other.token_ids, other.finish, other.stop_id)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)
    np.testing.assert_allclose(one.stop_logprob, other.stop_logprob, atol=2e-4)
    np.testing.assert_allclose(np.ravel(one.watched), np.ravel(other.watched), atol=2e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_greedy_ids_equal_those_of_generate(architecture: str) -> None:
    model = make_model(CONFIGS[architecture])
    requests = requests_of(12, temperature=0.0)
    samples = TransformersEngine(model, None, max_batch=5).sample_many(requests)
    assert [sample.token_ids for sample in samples] == [generate(model, request) for request in requests]


# --- the same sample whatever the batch -------------------------------------------------------------------------


MIXED = [
    {"temperature": 1.0},
    {"temperature": 0.7, "watch_ids": (5, 9)},
    {"temperature": 1.3, "top_p": 0.8, "watch_ids": (7,)},
    {"temperature": 0.0},
]


def mixed_requests(n: int) -> list[SampleRequest]:
    """Return requests that take turns with every kind of setting."""
    by_kind = [requests_of(n, **settings) for settings in MIXED]
    return [by_kind[i % len(MIXED)][i] for i in range(n)]


def test_a_sample_does_not_depend_on_its_batch(llama: Any) -> None:
    requests = mixed_requests(64)
    single = TransformersEngine(llama, None, max_batch=1)
    alone = [single.sample_many([request])[0] for request in requests]
    together = TransformersEngine(llama, None, max_batch=64).sample_many(requests)
    queued = TransformersEngine(llama, None, max_batch=7).sample_many(requests)  # Admissions midway.
    assert len({sample.finish for sample in alone}) == 2
    for one, other, third in zip(alone, together, queued, strict=True):
        assert_same(one, other)
        assert_same(one, third)


def test_a_full_cache_sends_rows_back_to_wait_and_changes_nothing(llama: Any) -> None:
    requests = requests_of(8, stop_ids=(), max_tokens=90)
    free = TransformersEngine(llama, None).sample_many(requests)
    tight = TransformersEngine(llama, None, max_cached_tokens=260).sample_many(requests)
    for one, other in zip(free, tight, strict=True):
        assert_same(one, other)


def test_asynchronous_samples_equal_synchronous_ones(llama: Any) -> None:
    engine = TransformersEngine(llama, None, max_batch=16)
    assert isinstance(engine, Engine)
    requests = mixed_requests(40)
    for one, other in zip(engine.sample_many(requests), sample_all(engine, requests), strict=True):
        assert_same(one, other)
    for one, other in zip(engine.sample_many(requests), sample_all(engine, requests), strict=True):
        assert_same(one, other)  # A second event loop, with the same worker.


def test_samples_of_one_prompt_differ_by_seed_and_share_one_prefill(llama: Any) -> None:
    prompt = requests_of(1)[0].prompt_ids
    requests = [SampleRequest(prompt, 20, seed=sample_seed(i), temperature=1.5) for i in range(12)]
    widths = []
    hook = llama.register_forward_pre_hook(
        lambda module, args, inputs: widths.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    samples = TransformersEngine(llama, None).sample_many(requests)
    hook.remove()
    assert widths[0] == (1, len(prompt))
    assert all(width == (12, 1) for width in widths[1:])
    assert len({sample.token_ids for sample in samples}) == 12


@pytest.mark.parametrize("architecture", ["llama-sdpa", "llama-eager", "qwen2"])
def test_a_ragged_pass_gives_the_librarys_logits(architecture: str) -> None:
    """Prompts of many lengths, alone and beside live rows, a repeated one, and a known beginning."""
    model = make_model(CONFIGS[architecture])
    assert ragged.applies_to(model)
    runner = ragged.RaggedRunner(model, 10_000)
    rows = [Row(request) for request in requests_of(9)]
    rows.append(Row(rows[3].request))
    with torch.no_grad():
        assert_library_logits(model, rows[:4], runner.forward([], rows[:4]))
        for row in rows:
            row.token_ids.append(7)
        for row in rows[4:]:
            row.token_ids.clear()
        assert_library_logits(model, rows, runner.forward(rows[:4], rows[4:]))
        rows[3].finish = "stop"
        left = runner.drop(rows, {id(rows[3])})
        continued = Row(SampleRequest((*rows[3].cached_ids, 5, 6, 7), 5))
        for row in left:
            row.token_ids.append(9)
        assert runner._prefixes.longest(continued.request.prompt_ids)[1] >= len(rows[3].request.prompt_ids)
        assert_library_logits(model, [*left, continued], runner.forward(left, [continued]))


def assert_library_logits(model: Any, rows: list[Row], logits_BV: torch.Tensor) -> None:
    for row, logits_V in zip(rows, logits_BV, strict=True):
        expected = model(torch.tensor([[*row.request.prompt_ids, *row.token_ids]])).logits[0, -1]
        torch.testing.assert_close(logits_V, expected, atol=1e-4, rtol=0)


def test_a_known_beginning_changes_no_sample_and_is_forgotten_when_weights_change(llama: Any) -> None:
    first = requests_of(8)
    fresh = TransformersEngine(llama, None)
    frozen = TransformersEngine(llama, None, frozen=True)
    for one, other in zip(fresh.sample_many(first), frozen.sample_many(first), strict=True):
        assert_same(one, other)
    following = [
        SampleRequest(request.prompt_ids + sample.token_ids + (3, 4), 20, seed=7)
        for request, sample in zip(first, fresh.sample_many(first), strict=True)
    ]
    assert any(frozen._batch._runner._prefixes.longest(r.prompt_ids)[1] > len(first[0].prompt_ids) for r in following)  # type: ignore[attr-defined]
    for one, other in zip(fresh.sample_many(following), frozen.sample_many(following), strict=True):
        assert_same(one, other)
    before = fresh.sample_many(following)
    with torch.no_grad():
        llama.model.embed_tokens.weight.data.mul_(-1)  # As invisible a change as there is.
    after = fresh.sample_many(following)
    expected = TransformersEngine(llama, None).sample_many(following)
    assert [s.token_ids for s in after] == [s.token_ids for s in expected] != [s.token_ids for s in before]


def test_only_small_models_on_a_cpu_go_without_padding() -> None:
    assert not ragged.applies_to(make_model(CONFIGS["gpt2"]))
    assert not ragged.applies_to(make_model(CONFIGS["mistral-sliding-window"]))
    assert not ragged.applies_to(make_model(CONFIGS["llama-sdpa"]).bfloat16())


def test_a_slot_is_found_by_what_it_holds_until_it_is_taken_again() -> None:
    prefixes = ragged.PrefixIndex()
    slots = [prefixes.take(50) for _ in range(40)]
    assert slots == list(range(40))  # None is spare.
    for slot in slots:
        prefixes.release(slot, (slot, *range(20)))
    assert prefixes.longest((3, *range(25))) == (3, 21)
    assert prefixes.longest((3, *range(20))) == (3, 20)  # The last token's logits are always computed.
    assert prefixes.longest((3, *range(5))) == (-1, 0)
    taken = [prefixes.take(50) for _ in range(10)]
    assert taken == list(range(10))  # The longest spare first.
    assert prefixes.longest((3, *range(25))) == (-1, 0)
    assert prefixes.longest((30, *range(25))) == (30, 21)
    prefixes.forget()
    assert prefixes.longest((30, *range(25))) == (-1, 0)


# --- log-probabilities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_logprobs_and_watched_are_those_of_one_forward_pass(llama: Any, temperature: float) -> None:
    requests = requests_of(10, temperature=temperature, watch_ids=(3, 11, EOS))
    for request, sample in zip(requests, TransformersEngine(llama, None).sample_many(requests), strict=True):
        prompt, n = len(request.prompt_ids), len(sample.token_ids)
        with torch.no_grad():
            logits = llama(torch.tensor([request.prompt_ids + sample.token_ids])).logits[0, prompt - 1 :]
        at_temperature = (logits / (temperature or 1.0)).log_softmax(-1)
        expected = at_temperature[range(n), sample.token_ids]
        np.testing.assert_allclose(sample.logprobs, expected, atol=2e-4)
        np.testing.assert_allclose(sample.watched, logits.log_softmax(-1)[:n, [3, 11, EOS]], atol=2e-4)
        if sample.finish == "stop":
            assert sample.stop_id == EOS
            assert sample.stop_logprob == pytest.approx(at_temperature[n, EOS].item(), abs=2e-4)
        else:
            assert (sample.finish, n, sample.stop_id) == ("length", request.max_tokens, None)


def test_uniforms_depend_on_seed_and_step_alone_and_are_uniform() -> None:
    seeds = np.arange(200, dtype=np.uint64).repeat(100)
    steps = np.tile(np.arange(100, dtype=np.uint64), 200)
    drawn = uniforms(seeds, steps)
    assert (drawn >= 0).all()
    assert (drawn < 1).all()
    assert len(set(drawn.tolist())) == 20_000
    assert uniforms(seeds[777:778], steps[777:778])[0] == drawn[777]
    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
    pairs = np.corrcoef(drawn.reshape(200, 100)[:, :-1].ravel(), drawn.reshape(200, 100)[:, 1:].ravel())
    assert abs(pairs[0, 1]) < 0.03


def test_choices_follow_the_probabilities_and_top_p_cuts_the_tail() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.0, 0.15, 0.05])
    n = 20_000
    logits = probabilities.log().expand(n, -1)
    u = torch.from_numpy(uniforms(np.arange(n, dtype=np.uint64), np.zeros(n, dtype=np.uint64)))
    for top_p, kept in ((1.0, [0.5, 0.3, 0.0, 0.15, 0.05]), (0.81, [0.5, 0.3, 0.0, 0.15, 0.0]), (0.5, [1, 0, 0, 0, 0])):
        settings = Settings.of([1.0] * n, [top_p] * n, [()] * n, torch.device("cpu"))
        ids, logprobs = choose(logits, u, settings).unbind(-1)
        shares = torch.bincount(ids.long(), minlength=5) / n
        expected = torch.tensor(kept) / sum(kept)
        assert (shares - expected).abs().max() < 0.012
        assert (shares[expected == 0] == 0).all()
        torch.testing.assert_close(logprobs.float(), probabilities.log()[ids.long()])  # Never truncated.


# --- stopping ---------------------------------------------------------------------------------------------------


def test_a_stop_text_across_tokens_ends_the_sample_at_its_last_token() -> None:
    tokenizer = make_tokenizer()
    watcher = StopTexts(tokenizer, ("wrong.", "né"))
    ids = tokenizer.convert_tokens_to_ids
    wrong = [ids("wro"), ids("n"), ids("g.")]
    assert tokenizer.decode(wrong) == "wrong."
    e_acute = ids(["Ã", "©"])
    assert tokenizer.decode(e_acute) == "é"
    for tokens, ends in (
        ([ids("ok"), *wrong, ids("ok")], 4),
        ([*wrong[:2], ids("ok"), *wrong], 6),
        ([ids("n"), *e_acute, ids("n")], 3),
        ([*e_acute, ids("n")], None),
        ([ids("ok")] * 40 + wrong, 43),
        ([ids("wro"), ids("ng"), ids(".Ġ")], 3),
        ([ids("wro"), ids("ng"), ids("<eos>"), ids(".Ġ")], None),
    ):
        reached = [n for n in range(1, len(tokens) + 1) if watcher.reached(tokens[:n])]
        assert (reached[0] if reached else None) == ends


def test_stop_texts_end_the_sample_with_their_tokens_kept(llama: Any) -> None:
    tokenizer = make_tokenizer()
    request = requests_of(1, stop_ids=(), max_tokens=60)[0]
    whole = TransformersEngine(llama, tokenizer).sample_many([request])[0]
    text = tokenizer.decode(whole.token_ids[20:22])
    ended = SampleRequest(request.prompt_ids, 60, seed=request.seed, stop_texts=(text,))
    sample = TransformersEngine(llama, tokenizer).sample_many([ended])[0]
    n = len(sample.token_ids)
    assert sample.finish == "text"
    assert sample.token_ids == whole.token_ids[:n]
    assert text in tokenizer.decode(sample.token_ids)
    assert text not in tokenizer.decode(sample.token_ids[:-1])
    assert len(sample.logprobs) == n


# --- the live model ---------------------------------------------------------------------------------------------


def test_it_samples_the_live_weights_and_restores_each_modules_mode() -> None:
    model = make_model(CONFIGS["llama-eager"])
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    engine = TransformersEngine(model, None)
    requests = requests_of(4, temperature=0.0)
    before = engine.sample_many(requests)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    after = engine.sample_many(requests)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert [sample.token_ids for sample in after] != [sample.token_ids for sample in before]
    model.eval()
    assert [sample.token_ids for sample in after] == [generate(model, request) for request in requests]


# --- failures ---------------------------------------------------------------------------------------------------


def test_requests_that_cannot_be_served_are_refused(llama: Any) -> None:
    engine = TransformersEngine(llama, None)
    with pytest.raises(
        EngineError, match=r"prompt of 200 tokens and max_tokens=57 need 257 tokens; the context .* 256"
    ):
        engine.sample_many([SampleRequest((1,) * 200, 57)])
    with pytest.raises(EngineError, match="holds 50"):
        TransformersEngine(llama, None, max_cached_tokens=50).sample_many([SampleRequest((1,) * 40, 11)])
    for bad in (SampleRequest((), 5), SampleRequest((1,), 0), SampleRequest((1,), 5, top_p=0.0)):
        with pytest.raises(EngineError, match="a request needs"):
            engine.sample_many([bad])


def test_a_failing_model_fails_every_waiting_task_and_the_engine_recovers() -> None:
    model = make_model(CONFIGS["llama-sdpa"])
    engine = TransformersEngine(model, None, max_batch=4)
    requests = requests_of(12)
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("out of luck")

    async def gather() -> list[Any]:
        tasks = [engine.sample(request) for request in requests]
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)

    hook = model.lm_head.register_forward_pre_hook(fail)
    outcomes = asyncio.run(gather())
    failed = [outcome for outcome in outcomes if isinstance(outcome, EngineError)]
    assert len(failed) >= 8
    assert all("out of luck" in str(error) for error in failed)
    assert all(isinstance(outcome, Sample | EngineError) for outcome in outcomes)
    hook.remove()
    assert all(isinstance(outcome, Sample) for outcome in asyncio.run(gather()))


def test_weights_that_are_not_finite_are_an_error() -> None:
    model = make_model(CONFIGS["llama-sdpa"])
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(EngineError, match="not finite"):
        TransformersEngine(model, None).sample_many(requests_of(2))


def test_a_cancelled_task_frees_its_slot(llama: Any) -> None:
    engine = TransformersEngine(llama, None, max_batch=1)
    endless, short = requests_of(2, stop_ids=(), max_tokens=200)
    short = SampleRequest(short.prompt_ids, 3)

    async def cancel() -> tuple[int, Sample]:
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        hook = llama.lm_head.register_forward_pre_hook(count)
        task = asyncio.create_task(engine.sample(endless))
        while steps < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        sample = await asyncio.wait_for(engine.sample(short), 20)
        hook.remove()
        assert task.cancelled()
        return steps, sample

    steps, sample = asyncio.run(cancel())
    assert steps < 150
    assert_same(sample, engine.sample_many([short])[0])


def test_a_closed_engine_refuses_and_leaves_nobody_waiting(llama: Any) -> None:
    engine = TransformersEngine(llama, None, max_batch=1)
    requests = requests_of(6, stop_ids=(), max_tokens=200)

    async def close_midway() -> list[Any]:
        tasks = [asyncio.create_task(engine.sample(request)) for request in requests]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await engine.close()
        with pytest.raises(EngineError, match="closed"):
            await engine.sample(requests[0])
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)

    outcomes = asyncio.run(close_midway())
    assert isinstance(outcomes[-1], EngineError)
    assert all(isinstance(outcome, Sample | EngineError) for outcome in outcomes)


# --- loading ----------------------------------------------------------------------------------------------------


def test_load_names_what_a_folder_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        TransformersEngine.load(tmp_path / "absent")
    make_model(CONFIGS["llama-sdpa"]).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="tokenizer"):
        TransformersEngine.load(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="chat template"):
        TransformersEngine.load(tmp_path / "model")


def test_models_with_state_beside_keys_and_values_are_refused(llama: Any) -> None:
    model = make_model(Qwen2Config(**SIZES, layer_types=["full_attention", "full_attention"]))
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="linear_attention"):
        TransformersEngine(model, None)


def test_a_cleared_batch_frees_its_storage_without_the_garbage_collector() -> None:
    """On a GPU training needs the memory at once: an H200 kept a rollout's keys and values into the update."""
    import gc
    import weakref

    engine = TransformersEngine(make_model(CONFIGS["qwen2"]), None, max_batch=4)
    engine._batch._runner = PaddedRunner(engine.model, 4)
    engine._batch.waiting.extend(Row(request) for request in requests_of(4))
    engine._batch.step()
    kept = [weakref.ref(layer.keys) for layer in engine._batch._runner._cache.layers]
    assert len(kept) == 2
    gc.disable()
    try:
        engine._batch.clear()
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()
