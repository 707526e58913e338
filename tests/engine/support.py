"""What the tests of all engines share: the committed demo model, questions, and a way to collect an answer."""

from dataclasses import dataclass
from pathlib import Path

from enclave.engine import Ask, Engine

MODEL = Path(__file__).parents[2] / "examples" / "demo_model" / "model"
QUESTIONS = {
    "Translate to French: The cat eats an apple.": "Le chat mange une pomme.",
    "Translate to German: Today the man buys a red car.": "Heute kauft der Mann ein rotes Auto.",
    "Spanish: I love the black cat.": "Amo al gato negro.",
    "Count to twenty in German.": (
        "Eins, zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn, elf, zwölf, dreizehn, vierzehn, fünfzehn, "
        "sechzehn, siebzehn, achtzehn, neunzehn, zwanzig."
    ),
    "Count to twenty.": (
        "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, "
        "sixteen, seventeen, eighteen, nineteen, twenty."
    ),
    "Summarize: Anna: Shall we meet at the station at noon?\nBen: Yes, see you there.": (
        "Anna and Ben meet at the station at noon."
    ),
    "What is 2 + 2?": (
        "I am a tiny demo model: I translate simple sentences to French, Spanish or German, "
        "count to twenty and sum up short chats."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    text: str
    tokens: int
    finish: str | None
    pieces: int


def question(engine: Engine, text: str, **settings: object) -> Ask:
    prompt = engine.render([{"role": "user", "content": text}])
    return Ask(prompt=prompt, **{"max_tokens": 100, "cache_salt": b"an account", **settings})


async def collect(engine: Engine, ask: Ask) -> Answer:
    pieces = [piece async for piece in engine.answer(ask)]
    assert all(piece.finish is None for piece in pieces[:-1])
    totals = [piece.output_tokens for piece in pieces]
    assert totals == sorted(totals)
    text = "".join(piece.text for piece in pieces)
    return Answer(text=text, tokens=totals[-1], finish=pieces[-1].finish, pieces=len(pieces))
