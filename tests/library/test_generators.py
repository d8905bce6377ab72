"""A generator of a module's own gives what torch's default one would: the same masks again under
activation checkpointing, others in each worker."""

import multiprocessing

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLinear, StructuredLSTM

SITE = SiteDropout(Case.III, 0.5)
POLICY = DropoutPolicy(nr=SITE, rh=SITE, output=SITE)


class Block(nn.Module):
    """What a user would checkpoint: modules that share a generator."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        own = None if seed is None else torch.Generator().manual_seed(seed)
        self.lstm = StructuredLSTM(8, 8, 2, policy=POLICY, backend="dense", generator=own)
        self.linear = StructuredLinear(8, 8, policy=POLICY, backend="dense", generator=own)

    def forward(self, x):
        return self.linear(self.lstm(x)[0].tanh())


def gradients(block: Block, run, x: torch.Tensor, times: int) -> list[torch.Tensor]:
    """Of a loss over a block that runs several times."""
    losses = []
    for _ in range(times):
        x = run(x)
        losses.append(x.square().sum())
    block.zero_grad()
    sum(losses).backward()
    return [x, *(parameter.grad for parameter in block.parameters())]


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("times", [1, 3])
def test_a_checkpointed_forward_drops_the_same_again(seed, reentrant, times):
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        block, x = Block(seed), torch.randn(4, 3, 8, requires_grad=True)

        def run(x, block=block, checkpointed=checkpointed):
            return checkpoint(block, x, use_reentrant=reentrant) if checkpointed else block(x)

        # Two iterations: the second goes on with the generator as if nothing had been repeated.
        results.append([gradients(block, run, x, times) for _ in range(2)])
        if seed is not None:
            assert len(block.lstm._stream._forwards) == 0
    for plain, checkpointed in zip(*results, strict=True):
        for a, b in zip(plain, checkpointed, strict=True):
            torch.testing.assert_close(a, b)


def test_what_cannot_be_the_same_again_is_an_error():
    block, x = Block(seed=7), torch.randn(4, 3, 8, requires_grad=True)
    y = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
    torch.rand(1)
    with pytest.raises(RuntimeError, match="would drop other units than the first time"):
        y.sum().backward()


def made() -> StructuredLSTM:
    own = torch.Generator().manual_seed(7)
    return StructuredLSTM(40, 8, policy=POLICY, backend="dense", generator=own)


def kept(lstm: StructuredLSTM) -> list[int]:
    return lstm.draw_masks(3, 2)[0].nr.indices.tolist()


def test_forked_workers_draw_masks_of_their_own_and_in_another_run_the_same():
    context = multiprocessing.get_context("fork")

    def drawn():
        lstm = made()
        found, results = [kept(lstm)], context.Queue()
        for number in range(2):
            process = context.Process(
                target=lambda: results.put([kept(lstm), kept(lstm)]), name=f"worker {number}"
            )
            process.start()
            found += results.get(timeout=60)
            process.join(60)
        return found

    found = drawn()
    assert len({str(units) for units in found}) == 5
    assert found == drawn()


def test_spawned_workers_draw_masks_of_their_own():
    lstm = made()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (masks,) = pool.apply_async(lstm.draw_masks, (3, 2)).get(timeout=400)
    assert masks.nr.indices.tolist() != kept(lstm)
