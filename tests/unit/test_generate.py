"""Sampling on a tiny llama: batch size never matters, stops are kept, characters come whole."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrain.errors import Failure
from llmtrain.generate import Row, Sampling, Vocabulary, Writer, batches, choose, generate

torch = pytest.importorskip("torch")
PROMPTS = ["a", "hello world", "", "é€", "the quick brown fox jumps over the lazy dog", "x" * 40, "ab"]


def byte_vocabulary(stop_ids: Sequence[int] = (256,)) -> Vocabulary:
    return Vocabulary(
        encode=lambda text: list(text.encode()),
        decode=lambda ids: bytes(id for id in ids if id < 256).decode(errors="replace"),
        stop_ids=stop_ids, pad_id=0, empty_id=256,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> "torch.nn.Module":
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.5,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).float()


@pytest.fixture(scope="module")
def absolute() -> "torch.nn.Module":
    """A model that sees absolute positions: a wrong shift of padded prompts changes its texts."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=257, n_embd=64, n_layer=2, n_head=4, n_positions=128, initializer_range=0.5, bos_token_id=256,
        eos_token_id=256,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).float()


@pytest.mark.parametrize("kind", ["model", "absolute"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_batch_size_changes_nothing(request: pytest.FixtureRequest, kind: str, temperature: float) -> None:
    runs = [
        generate(
            request.getfixturevalue(kind), PROMPTS, byte_vocabulary(),
            Sampling(max_new_tokens=16, temperature=temperature, top_p=0.9, batch_size=size, seed=3),
        )
        for size in (1, 2, 5, "auto")
    ]  # fmt: skip
    assert all(other == runs[0] for other in runs[1:])
    assert [item.prompt for item in runs[0]] == PROMPTS
    assert len({item.text for item in runs[0]}) > 3


def test_greedy_agrees_with_transformers(model: "torch.nn.Module") -> None:
    prompt = "hello"
    ours = generate(model, [prompt], byte_vocabulary(()), Sampling(max_new_tokens=12))[0]
    ids = torch.tensor([list(prompt.encode())])
    theirs = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 5:].tolist()
    assert ours.tokens == len(theirs) == 12
    assert ours.text == bytes(id for id in theirs if id < 256).decode(errors="replace").rstrip("�")


def test_samples_follow_the_seed(model: "torch.nn.Module") -> None:
    def texts(seed: int) -> list[str]:
        sampling = Sampling(max_new_tokens=16, temperature=1.0, seed=seed)
        return [item.text for item in generate(model, PROMPTS[:2], byte_vocabulary(), sampling)]

    assert texts(1) == texts(1) != texts(2)


def test_streamed_text_is_the_text(model: "torch.nn.Module") -> None:
    pieces: dict[int, list[str]] = {}
    sampling = Sampling(max_new_tokens=30, temperature=1.5, seed=5)
    results = generate(
        model, PROMPTS, byte_vocabulary(), sampling, on_text=lambda at, text: pieces.setdefault(at, []).append(text)
    )
    assert ["".join(pieces.get(at, [])) for at in range(len(PROMPTS))] == [item.text for item in results]


def test_every_stop_id_ends_a_text(model: "torch.nn.Module") -> None:
    plain = generate(model, ["hello"], byte_vocabulary(()), Sampling(max_new_tokens=8))[0]
    ids: list[int] = []
    vocabulary = byte_vocabulary(())
    recorded = Vocabulary(
        encode=vocabulary.encode, decode=lambda x: (ids.clear(), ids.extend(x), vocabulary.decode(x))[2],
        stop_ids=(), pad_id=0,
    )  # fmt: skip
    generate(model, ["hello"], recorded, Sampling(max_new_tokens=8))
    third = ids[-1]
    stopped = generate(model, ["hello"], byte_vocabulary((256, third)), Sampling(max_new_tokens=8))[0]
    assert plain.stopped == "length"
    assert stopped.stopped == "stop"
    assert stopped.tokens < plain.tokens


def test_training_mode_comes_back(model: "torch.nn.Module") -> None:
    model.train()
    generate(model, ["a"], byte_vocabulary(), Sampling(max_new_tokens=1))
    assert model.training


def test_positions_limit_prompts_and_texts(model: "torch.nn.Module") -> None:
    result = generate(model, ["x" * 120], byte_vocabulary(()), Sampling(max_new_tokens=50), positions=128)[0]
    assert (result.tokens, result.stopped) == (8, "length")
    with pytest.raises(Failure) as caught:
        generate(model, ["a", "x" * 128], byte_vocabulary(), Sampling(), positions=128)
    assert caught.value.problems[0].id == "E-MODEL-006"
    assert caught.value.problems[0].message == "prompt 2 has 128 tokens, but the model has 128 positions"


def test_an_empty_prompt_without_a_start_token_is_refused(model: "torch.nn.Module") -> None:
    vocabulary = Vocabulary(encode=lambda _: [], decode=lambda _: "", stop_ids=(), pad_id=0)
    with pytest.raises(Failure, match="empty prompt"):
        generate(model, [""], vocabulary, Sampling())


def test_top_p_keeps_the_smallest_set() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=1.0, top_p=0.75)
    drawn = [choose(logits, sampling, generator) for _ in range(2000)]
    assert set(drawn) == {0, 1}
    assert abs(drawn.count(0) / 2000 - 0.625) < 0.05


def written(data: bytes, stop: Sequence[str] = ()) -> tuple[str, list[str], bool]:
    writer = Writer(decode=byte_vocabulary().decode, stop=stop, ids=[])
    pieces: list[str] = []
    for byte in data:
        pieces.append(writer.add(byte))
        if writer.stopped:
            break
    pieces.append(writer.finish())
    return writer.text, pieces, writer.stopped


@given(st.text(alphabet=st.characters(exclude_characters="�", codec="utf-8"), max_size=30))
def test_bytes_become_whole_characters(text: str) -> None:
    whole, pieces, _ = written(text.encode())
    assert whole == "".join(pieces) == text
    assert not any("�" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_left_out() -> None:
    assert written("a€".encode()[:-1])[:2] == ("a", ["a", "", "", ""])


def test_a_stop_string_is_never_given_out() -> None:
    text, pieces, stopped = written(b"one two END three", ["END", "three"])
    assert (text, "".join(pieces), stopped) == ("one two ", "one two ", True)


def test_a_begun_stop_string_that_does_not_end_is_given_out() -> None:
    assert written(b"see EN", ["END"]) == ("see EN", ["s", "e", "e", " ", "", "", "EN"], False)


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 5))
def test_batches_hold_each_row_once(lengths: list[int], size: int) -> None:
    writer = Writer(decode=lambda _: "", stop=(), ids=[])
    rows = [
        Row(number=number, prompt=[1] * length, limit=1, writer=writer, generator=torch.Generator())
        for number, length in enumerate(lengths)
    ]
    groups = batches(rows, Sampling(batch_size=size))
    assert sorted(row.number for group in groups for row in group) == list(range(len(lengths)))
    assert all(0 < len(group) <= size for group in groups)
