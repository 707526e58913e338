"""How often the demo model is exactly right on word combinations it never saw."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from folder import END, PAD
from sentences import LEARNT, Exchange, exchange
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BATCH = 100
MISSES_SHOWN = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An exchange and what the model said, end token included."""

    asked: Exchange
    said: str

    @property
    def right(self) -> bool:
        """Whether it is the one right answer, ended where it should."""
        return self.said == self.asked.answer + END


@torch.inference_mode()
def examine(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rng: random.Random, count: int
) -> dict[str, object]:
    """A report: shares of exactly right answers by family, and for everything held out together."""
    samples = [exchange(rng, held_out=True) for _ in range(count)]
    answered = [
        done for start in range(0, count, BATCH) for done in _answer(model, tokenizer, samples[start : start + BATCH])
    ]
    families = sorted({done.asked.family for done in answered})
    held_out = [done for done in answered if done.asked.family not in LEARNT]
    misses = [done for done in answered if not done.right][:MISSES_SHOWN]
    return {
        "held out": _share(held_out),
        "families": {family: _share([done for done in answered if done.asked.family == family]) for family in families},
        "not held out": list(LEARNT),
        "misses": [
            {"prompt": done.asked.prompt, "said": done.said.removesuffix(END), "right": done.asked.answer}
            for done in misses
        ],
    }


def _answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, samples: Sequence[Exchange]) -> list[Answered]:
    chats = [[{"role": "user", "content": sample.prompt}] for sample in samples]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    said = (text.replace(PAD, "") for text in tokenizer.batch_decode(output))
    return [Answered(asked=sample, said=text) for sample, text in zip(samples, said, strict=True)]


def _share(answered: Sequence[Answered]) -> dict[str, float | int]:
    right = sum(done.right for done in answered)
    return {"right": right, "of": len(answered), "share": round(right / max(1, len(answered)), 4)}
