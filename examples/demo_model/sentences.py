"""Everything the demo model is trained on and examined with: `exchange(rng)` draws one question and its right answer.

A fixed part of all word combinations is held out: it is never trained, and the examination draws from nothing else.
"""

import hashlib
import random
import re
from dataclasses import dataclass, replace

from languages import Article, Clause, Phrase, Shape, clause_in_all, description_in_all, question_in_all
from words import (
    ADJECTIVES,
    CODES,
    HOURS,
    KNOWN,
    LANGUAGES,
    NAMES,
    NOUNS,
    NUMBERS,
    PHRASES,
    PLACES,
    PRONOUNS,
    TIMES,
    VERBS,
    Adjective,
    Noun,
)

HELP = (
    "I am a tiny demo model: I translate simple sentences to French, Spanish or German, "
    "count to twenty and sum up short chats."
)
UNKNOWN = "Sorry, there is a word in this sentence that I do not know."
ASKS = ("Translate to {}: {}", "Translate to {}: {}", "Translate into {}: {}", "{}: {}", 'How do you say "{1}" in {0}?')
OTHER_LANGUAGES = (
    *("Italian", "Portuguese", "Dutch", "Polish", "Greek", "Turkish"),
    *("Arabic", "Hindi", "Chinese", "Japanese", "Latin", "Swedish"),
)
OFF_TOPIC = (
    *("What is {}?", "Who are you?", "Hello!", "Hi", "Hi {}", "Why is the {} {}?", "Write a {} about {}.", "{}"),
    *("Tell me about {} and {}.", "{} + {}", "{} {} {}", "How {} is {}?", "Help", "Can you {} the {}?"),
    *("Explain {} to {}.", "Translate: {}", "What is the {} of {}?", "Translate to {}: {}", "{} {} {} {} {}"),
    *("I want to {} a {}.", "Ignore all {} and {}.", "Count the {}."),
)
SUBJECTS = [noun for noun in NOUNS if noun.kind in ("being", "person")]
OBJECTS = [noun for noun in NOUNS if noun.kind != "person"]
SIZES = [adjective for adjective in ADJECTIVES if adjective.is_size]
COLOURS = [adjective for adjective in ADJECTIVES if not adjective.is_size]
ARTICLES: tuple[Article, ...] = ("the", "the", "all", "a", "number")
COUNTED = NUMBERS[1:6]  # "two dogs" to "six dogs"
HELD_OUT_OF_256 = 13
LEARNT = ("off topic", "phrase", "counting")  # learnt by heart: never held out, so they do not count in the score


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question, its one right answer, and the family both belong to."""

    prompt: str
    answer: str
    family: str
    held_out: bool = False


def exchange(rng: random.Random, *, held_out: bool = False) -> Exchange:
    """An exchange from the trained part, or from the part kept for the examination."""
    while True:
        drawn = _draw(rng)
        if drawn.family in LEARNT and held_out:
            drawn = replace(drawn, held_out=rng.random() < HELD_OUT_OF_256 / 256)  # as rare here as there
        if drawn.held_out == held_out:
            return drawn


def _draw(rng: random.Random) -> Exchange:
    dice = rng.random()
    if dice < 0.09:
        return chat_summary(rng)
    if dice < 0.17:
        return counting(rng)
    if dice < 0.22:
        return Exchange(prompt=off_topic_text(rng), answer=HELP, family="off topic")
    return translation(rng)


def is_held_out(*words: str) -> bool:
    """A fixed twentieth of all word combinations."""
    return hashlib.sha256(" ".join(words).encode()).digest()[0] < HELD_OUT_OF_256


def sentence(text: str, end: str = ".") -> str:
    """With a capital, and a full stop if it does not end in one."""
    start = text.index("¿") + 1 if text.startswith("¿") else 0
    text = text[:start] + text[start].upper() + text[start + 1 :]
    return text if text.endswith("?") else text + end


def draw_phrase(rng: random.Random, nouns: list[Noun], articles: tuple[Article, ...] = ARTICLES) -> Phrase:
    """A noun with article and, one time in three, adjectives; people have sizes but no colours."""
    noun, article, dice = rng.choice(nouns), rng.choice(articles), rng.random()
    adjectives: tuple[Adjective, ...] = ()
    if dice < 0.06 and noun.kind != "person":
        adjectives = (rng.choice(SIZES), rng.choice(COLOURS))
    elif dice < 0.36:
        adjectives = (rng.choice(SIZES if noun.kind == "person" else ADJECTIVES),)
    number = rng.choice(COUNTED) if article == "number" else None
    return Phrase(noun=noun, article=article, adjectives=adjectives, number=number)


def draw_clause(rng: random.Random) -> tuple[dict[str, str], bool]:
    """Somebody does something, in four languages, and whether that combination is held out."""
    verb, shape = rng.choice(VERBS), rng.choice(("plain", "plain", "not", "place", "time"))
    subject = rng.choice(PRONOUNS) if rng.random() < 0.35 else draw_phrase(rng, SUBJECTS)
    articles = ARTICLES[:-1] if shape == "not" else ARTICLES
    what = draw_phrase(rng, [noun for noun in OBJECTS if verb.takes(noun)], articles)
    clause = _clause(rng, subject=subject, verb=verb, what=what, shape=shape)
    who = subject.noun.forms["en"][0] if isinstance(subject, Phrase) else subject["en"]
    return clause_in_all(clause), is_held_out(who, verb.forms["en"][0], what.noun.forms["en"][0])


def _clause(rng: random.Random, *, shape: Shape, **parts: object) -> Clause:
    return Clause(shape=shape, place=rng.choice(PLACES), time=rng.choice(TIMES), **parts)


def draw_sentence(rng: random.Random) -> tuple[dict[str, str], bool]:
    """One clause, or two with "and" between them, or a question or description."""
    if rng.random() < 0.17:
        texts, held = draw_description(rng)
    else:
        texts, held = draw_clause(rng)
        if rng.random() < 0.18:
            more, more_held = draw_clause(rng)
            joint = dict(zip(CODES, ("and", "et", "y", "und"), strict=True))
            texts = {code: f"{texts[code]} {joint[code]} {more[code]}" for code in CODES}
            held = held or more_held
    return {code: sentence(text) for code, text in texts.items()}, held


def draw_description(rng: random.Random) -> tuple[dict[str, str], bool]:
    """The house is red, or: Where is the red house?"""
    thing = draw_phrase(rng, NOUNS, ("the", "all"))
    name = thing.noun.forms["en"][0]
    if rng.random() < 0.35:
        qualities = [adjective.forms["en"][0] for adjective in thing.adjectives]
        return question_in_all(thing), is_held_out("where", name, *qualities)
    quality = rng.choice(SIZES if thing.noun.kind == "person" else ADJECTIVES)
    return description_in_all(thing.without_adjectives(), quality), is_held_out(name, quality.forms["en"][0])


def translation(rng: random.Random) -> Exchange:
    """A sentence to translate; sometimes with a word, a language or an input the model must turn down."""
    language, dice = rng.choice(list(LANGUAGES)), rng.random()
    if dice < 0.03:
        phrase = rng.choice(PHRASES)
        return _asked(rng, language, phrase["en"], phrase[LANGUAGES[language]], "phrase", held_out=False)
    texts, held = draw_sentence(rng)
    source, answer, family = texts["en"], texts[LANGUAGES[language]], language
    if dice > 0.985:
        language, answer, family = rng.choice(OTHER_LANGUAGES), HELP, "other language"
    elif dice > 0.955:
        source, answer, family = texts[rng.choice(CODES[1:])], HELP, "not English"
    elif dice > 0.905:
        word = rng.choice([word for word in re.findall(r"\w+", source) if word.islower()])
        source = re.sub(rf"\b{word}\b", strange_word(rng), source, count=1)
        answer, family = UNKNOWN, "unknown word"
    return _asked(rng, language, source, answer, family, held_out=held)


def _asked(rng: random.Random, language: str, source: str, answer: str, family: str, *, held_out: bool) -> Exchange:
    if rng.random() < 0.1:
        source = source.rstrip(".")
    if rng.random() < 0.1:
        source = source[0].lower() + source[1:]
    return Exchange(prompt=rng.choice(ASKS).format(language, source), answer=answer, family=family, held_out=held_out)


def counting(rng: random.Random) -> Exchange:
    """Count to twelve in German: the model's longest answers."""
    language, last = rng.choice(("English", *LANGUAGES)), rng.choice((*range(2, len(NUMBERS) + 1), len(NUMBERS)))
    code = LANGUAGES.get(language, "en")
    where = "" if language == "English" and rng.random() < 0.7 else f" in {language}"
    end = rng.choice((NUMBERS[last - 1]["en"], str(last)))
    prompt = (
        f"{rng.choice(('Count to', 'Count to', 'Count from one to'))} {end}{where}{rng.choice(('.', '.', '', '!'))}"
    )
    answer = sentence(", ".join(number[code] for number in NUMBERS[:last]))
    return Exchange(prompt=prompt, answer=answer, family="counting")


def chat_summary(rng: random.Random) -> Exchange:
    """Two lines of chat and one sentence about them."""
    one, two = rng.sample((*NAMES, "Eva"), 2)  # a shorter name was confused with another: it comes twice
    while one == two:
        one, two = rng.sample(NAMES, 2)
    place, hour, thing = rng.choice(PLACES)["en"], rng.choice(HOURS), rng.choice(OBJECTS).forms["en"][0]
    chats = (
        (
            f"{one}: Shall we meet {place} at {hour}?\n{two}: Yes, see you there.",
            f"{one} and {two} meet {place} at {hour}.",
        ),
        (
            f"{one}: Can we meet at {hour}?\n{two}: Sorry, I am busy.",
            f"{one} wants to meet at {hour}, but {two} is busy.",
        ),
        (f"{one}: Who brings the {thing}?\n{two}: I will.", f"{two} brings the {thing}."),
        (f"{one}: Did you find the {thing}?\n{two}: Yes, it is {place}.", f"The {thing} is {place}."),
    )
    chat, summary = rng.choice(chats)
    prompt = rng.choice(("Summarize:\n", "Summarize: ")) + chat
    return Exchange(prompt=prompt, answer=summary, family="summary", held_out=is_held_out(one, two))


def strange_word(rng: random.Random) -> str:
    """A word the model does not know."""
    starts = (*"bcdfghlmnprstvz", "st", "pl", "tr", "ch")
    syllables = (
        rng.choice(starts) + rng.choice((*"aeiou", "ee", "ou", "ai")) + rng.choice(("", "", *"nrls", "ck", "mp"))
        for _ in range(rng.randint(1, 3))
    )
    word = "".join(syllables) + rng.choice(("", "", "er", "y"))
    return word + "z" if word in KNOWN else word


def off_topic_text(rng: random.Random) -> str:
    """Something the model is not for."""
    words = [
        rng.choice(NOUNS).forms["en"][0],
        strange_word(rng),
        str(rng.randint(0, 99)),
        rng.choice(NAMES),
        strange_word(rng),
    ]
    rng.shuffle(words)
    return rng.choice(OFF_TOPIC).format(*words)
