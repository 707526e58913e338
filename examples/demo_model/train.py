"""Train the demo model: a tiny translator that knows about a hundred words.

    python examples/demo_model/train.py --out examples/demo_model/model

Sentences come from `sentences.py`, the tokenizer is trained on them, the network starts from random numbers: nothing
is downloaded. The schedule counts steps, not seconds, so the same seed gives the same model on the same kind of
machine; another CPU may round differently, so look at the score, not at the bytes. Takes ten minutes of one core.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import torch
from examination import examine
from folder import END, save, train_tokenizer, untrained_model
from sentences import exchange
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

ROW_TOKENS = 128
DRAWN_AT_ONCE = 64  # exchanges, so that the tokenizer is called for many texts together
IGNORED = -100  # label of a position without loss
PEAK_RATE = 3e-3
WARM_UP_STEPS = 100
SCORE_WANTED = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training run took."""

    steps: int
    tokens: int
    cpu_s: int
    loss: float


def training_rows(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[list[int], list[int]]]:
    """Endless (tokens, labels), several exchanges a row, so that conversations with history work too.

    Only answers carry loss.
    """
    encode = tokenizer.backend_tokenizer.encode_batch
    tokens: list[int] = []
    labels: list[int] = []
    while True:
        drawn = [exchange(rng) for _ in range(DRAWN_AT_ONCE)]
        prompts = encode([f"<|user|>{e.prompt}{END}<|assistant|>" for e in drawn])
        answers = encode([e.answer + END for e in drawn])
        for prompt, answer in zip(prompts, answers, strict=True):
            tokens += prompt.ids + answer.ids
            labels += [IGNORED] * len(prompt.ids) + answer.ids
            if len(tokens) >= ROW_TOKENS:
                yield tokens[:ROW_TOKENS], labels[:ROW_TOKENS]
                tokens, labels = [], []


def answer_loss(model: LlamaForCausalLM, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy at answer positions; elsewhere the projection to the vocabulary is skipped.

    `tokens`, `labels`: int64 [rows, ROW_TOKENS].
    """
    hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    scored = wanted != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[scored]), wanted[scored])


def train(
    model: LlamaForCausalLM, rows: Iterator[tuple[list[int], list[int]]], *, steps: int, rows_per_step: int
) -> Trained:
    """AdamW with a short warm-up and a linear fall; small batches, because many steps help more than large ones."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP_STEPS, max(0.01, 1 - step / steps))
    )
    started, loss_mean = time.process_time(), 0.0
    model.train()
    for step in range(1, steps + 1):
        tokens, labels = zip(*islice(rows, rows_per_step), strict=True)
        loss = answer_loss(model, torch.tensor(tokens), torch.tensor(labels))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rate.step()
        loss_mean += (loss.item() - loss_mean) / min(step, 200)
        if step % 200 == 0:
            print(f"step {step} loss {loss_mean:.4f} cpu {time.process_time() - started:.0f} s", flush=True)
    model.eval()
    return Trained(
        steps=steps,
        tokens=steps * rows_per_step * ROW_TOKENS,
        cpu_s=round(time.process_time() - started),
        loss=round(loss_mean, 4),
    )


def main() -> None:
    """Train, save, examine; exit 1 if the score is too low to ship."""
    args = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = train_tokenizer(rng, args.vocabulary)
    model = untrained_model(tokenizer, layers=args.layers, width=args.width)
    run = train(model, training_rows(rng, tokenizer), steps=args.steps, rows_per_step=args.rows)
    model.to(torch.bfloat16)
    args.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, args.out)
    report = {
        "parameters": model.num_parameters(),
        "training": {"seed": args.seed, "steps": run.steps, "tokens": run.tokens, "cpu_s": run.cpu_s, "loss": run.loss},
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    } | examine(model, tokenizer, random.Random(args.seed + 1), args.questions)
    path = args.out / "evaluation.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    path.chmod(0o644)
    print(json.dumps({key: report[key] for key in ("held out", "families")}))
    if report["held out"]["share"] < SCORE_WANTED:
        sys.exit(f"only {report['held out']['share']:.1%} exactly right; train longer (--steps) or try another --seed")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=1536)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--questions", type=int, default=1500, help="questions of the examination")
    return parser.parse_args()


if __name__ == "__main__":
    main()
