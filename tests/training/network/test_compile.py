"""Compiled layers: counted through the network that is trained, in ZeRO 1 and 3, and what is said when they fail."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.base import UserError
from tests.training.network.test_packed_lm import built, gradients, network, packed, rows
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, train_compiled, trajectory
from training.network import compile as compiling
from training.network.compile import compile_layers, count_graphs, decoder_layers, explain_compile_errors


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[None]:
    """Compilation as a fresh process has it."""
    settings = torch._dynamo.config.save_config()  # type: ignore[attr-defined]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.config.load_config(settings)  # type: ignore[attr-defined]
    torch._dynamo.reset()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated, but not made C++ of."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.parametrize(
    ("architecture", "recomputes"), [("llama", False), ("llama", True), ("gemma3_text", True), ("qwen3_moe", False)]
)
@pytest.mark.usefixtures("quick")
def test_all_layers_share_one_graph_whatever_the_documents(architecture: str, recomputes: bool) -> None:
    trained = network(architecture, activation_checkpointing=recomputes).train()
    tokens, lengths = rows()
    batches = [
        packed(tokens, lengths),
        packed(tokens.masked_fill(tokens == 1, 5), lengths),
        packed(tokens.flip(0), lengths),
    ]
    expected = []
    for rows_ in batches:
        result = trained(rows_)
        result.objective.backward()
        expected.append((result.row_nats, gradients(trained)))
    compile_layers(trained.model)
    assert count_graphs() == 0
    for rows_, (nats, grads) in zip(batches, expected, strict=True):
        result = trained(rows_)
        result.objective.backward()
        torch.testing.assert_close(result.row_nats, nats)
        torch.testing.assert_close(gradients(trained), grads, rtol=1e-3, atol=1e-4)
        assert count_graphs() == 1
    trained(packed(tokens[:2], lengths[:2]))
    assert count_graphs() == 2, "another number of rows is another graph"


def test_ranks_compile_once_in_every_stage_and_train_as_without(tmp_path: Path) -> None:
    """Of 5 samples two ranks take 3 and 2: with 2 rows a pass the last passes are filled up."""
    jobs = [
        tiny_job(
            tmp_path,
            tiny_config(num_steps=3, validation=None),
            world_size=2,
            zero_stage=stage,
            name=f"{stage}-{compiles}",
            **pool,
        )
        for stage in (1, 3)
        for compiles in (False, True)
        for pool in ({"compile": compiles, "activation_checkpointing": compiles},)
    ]
    run_ranks(train_compiled, 2, jobs)
    for plain, compiled in (jobs[:2], jobs[2:]):
        assert [line.graphs_compiled for line in lines(plain)] == [0, 0, 0]
        assert [line.graphs_compiled for line in lines(compiled)] == [1, 0, 0]
        for one, other in zip(trajectory(plain), trajectory(compiled), strict=True):
            assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.usefixtures("quick")
def test_a_layer_that_is_compiled_over_and_over_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_MAX_GRAPHS_OF_A_LAYER", 2)
    trained, (tokens, lengths) = network(), rows()
    compile_layers(trained.model)
    with pytest.raises(UserError, match=r"layer would be compiled more than 2 times.*set `compile: false`") as caught:
        for length in range(8, 14):
            with explain_compile_errors():
                trained(packed(tokens[:, :length], lengths.clamp(max=length - 1)))
    assert "\n" not in str(caught.value)


def test_a_compiler_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Callable[..., Any]:
        raise RuntimeError("cc1plus: out of tune\nand more")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fail))
    trained = network()
    compile_layers(trained.model)
    with (
        pytest.raises(UserError, match=r"cannot compile this model here: .*cc1plus: out of tune") as caught,
        explain_compile_errors(),
    ):
        trained(packed(*rows()))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_code_gives_the_numbers_of_eager_layers() -> None:
    model, ids = built(), torch.arange(16)[None]
    results = []
    for compiled in (False, True):
        if compiled:
            compile_layers(model)
        logits = model(input_ids=ids).logits
        logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *gradients(model).values()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    assert count_graphs() == 1 and len(decoder_layers(model)) == 2


def test_compiling_without_a_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="there is no 'no-such-compiler'; install one"):
        compile_layers(built())
