"""One iteration for the benchmark, whole or one part of it, on made-up sentences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from omegaconf import DictConfig

from structured_dropout import DropoutPolicy, SiteDropout
from structured_dropout.experiment import settings
from tasks.nmt.batches import Vocabulary
from tasks.nmt.model import build
from tasks.nmt.train import build_optimizer, negative_log_likelihood, step


def iteration(cfg: DictConfig, part: str = "model") -> Callable[[], object]:
    """A training iteration, or the forward and backward pass of one part alone.

    Args:
        part: ``encoder``, ``decoder`` or ``projection``; ``model`` is all of them.
    """
    policy = settings.policy(cfg, layers=cfg.model.layers)
    device, autocast = settings.device(cfg), settings.autocast(cfg)
    shape, batch = cfg.task.benchmark_shape, cfg.train.batch
    vocabulary = made_up_vocabulary(shape.src_vocabulary, shape.tgt_vocabulary)
    model = build(
        vocabulary,
        **cfg.model,
        policy=policy,
        backend=settings.backend(cfg, policy),
        cuda_graphs=settings.cuda_graph(cfg),
    ).to(device)
    src = torch.randint(4, shape.src_vocabulary, (shape.src_words, batch, 1), device=device)
    with_ends = shape.tgt_words + 2  # <s> and </s>
    tgt = torch.randint(4, shape.tgt_vocabulary, (with_ends, batch, 1), device=device)
    lengths = torch.full((batch,), shape.src_words)
    padding = vocabulary.padding("tgt")
    if part == "model":
        optimizer = build_optimizer(model, cfg.train)
        return lambda: step(model, optimizer, src, lengths, tgt, padding, autocast)

    words, lengths_on_device = tgt[:-1], lengths.to(device)
    masks = model.draw_masks(len(src), len(words), batch)
    with autocast:
        state, memory = model.encode(src, lengths, masks)
        outputs = model.decode(words, lengths_on_device, state, memory, masks)
    h, c, memory, outputs = (x.detach().requires_grad_() for x in (*state, memory, outputs))

    def encoder() -> None:
        model.zero_grad()
        masks = model.draw_masks(len(src), len(words), batch)
        with autocast:
            (h_n, c_n), y = model.encode(src, lengths, masks)
        torch.autograd.backward((h_n, c_n, y), (h, c, memory))

    def decoder() -> None:
        model.zero_grad()
        masks = model.draw_masks(len(src), len(words), batch)
        with autocast:
            decoded = model.decode(words, lengths_on_device, (h, c), memory, masks)
        torch.autograd.backward(decoded, outputs)

    def projection() -> None:
        model.zero_grad()
        masks = model.draw_masks(len(src), len(words), batch)
        with autocast:
            logits = model.project(outputs, masks)
        negative_log_likelihood(logits, tgt, padding).backward()

    return {"encoder": encoder, "decoder": decoder, "projection": projection}[part]


def max_speedup(cfg: DictConfig, part: str = "model") -> float:
    """The multiplications of all products over those that this dropout leaves, in FP, BP and
    WG alike."""
    everything, left = (
        _multiplications(cfg, policy)
        for policy in (DropoutPolicy(), settings.policy(cfg, layers=cfg.model.layers))
    )
    parts = left if part == "model" else [part]
    return sum(everything[name] for name in parts) / sum(left[name] for name in parts)


def _multiplications(cfg: DictConfig, policy: DropoutPolicy) -> dict[str, float]:
    """Of a sentence pair, by part."""
    shape, layers, hidden = cfg.task.benchmark_shape, range(cfg.model.layers), cfg.model.hidden_size
    source, target = shape.src_words, shape.tgt_words + 1

    def kept(site: SiteDropout | None, layer: int = 0) -> float:
        return 1 - site.rate(layer) if site is not None and site.case.structured else 1.0

    nr, rh = (sum(kept(site, layer) for layer in layers) for site in (policy.nr, policy.rh))
    output, last = kept(policy.output), kept(policy.rh, cfg.model.layers - 1)
    attention = (2 * source + target) * last * hidden**2 + 2 * source * target * hidden
    return {
        "encoder": source * 4 * hidden**2 * (nr + rh),
        "decoder": target * 4 * hidden**2 * (nr + rh + output) + attention,
        "projection": target * hidden * shape.tgt_vocabulary * output,
    }


def made_up_vocabulary(src: int, tgt: int) -> Vocabulary:
    """So many words a side, the special ones included."""
    specials = ["<unk>", "<blank>", "<s>", "</s>"]
    return Vocabulary(
        {
            side: [*specials, *(f"w{i}" for i in range(size - 4))]
            for side, size in (("src", src), ("tgt", tgt))
        }
    )
