"""The grammar of the demo model's world: phrases and clauses written in English, French, Spanish and German.

Elision, agreement, adjective position, dropped pronouns, cases and verb-second order are here; words are in `words`.
"""

from dataclasses import dataclass
from typing import Literal

from words import Adjective, Noun, Verb

Article = Literal["the", "all", "a", "number"]  # "all" is "the" in the plural
Shape = Literal["plain", "not", "place", "time"]
FRENCH_VOWELS = "aeiouéèœ"
FRENCH_SILENT_H = ("homme", "horloge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """A noun with its article and up to one size and one colour."""

    noun: Noun
    article: Article
    adjectives: tuple[Adjective, ...] = ()
    number: dict[str, str] | None = None

    @property
    def many(self) -> bool:
        """Whether it is plural."""
        return self.article in ("all", "number")

    def without_adjectives(self) -> "Phrase":
        """The bare phrase."""
        return Phrase(noun=self.noun, article=self.article, number=self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """Somebody does something to something: plainly, not at all, somewhere, or at some time."""

    subject: Phrase | dict[str, str]  # a pronoun is a dictionary of its translations
    verb: Verb
    what: Phrase
    shape: Shape
    place: dict[str, str]
    time: dict[str, str]

    @property
    def person(self) -> int:
        """Index into a verb's forms: I, he, we, they."""
        if isinstance(self.subject, Phrase):
            return 3 if self.subject.many else 1
        return {"I": 0, "we": 2, "they": 3}.get(self.subject["en"], 1)

    @property
    def negated(self) -> bool:
        """Whether it does not happen."""
        return self.shape == "not"

    def verb_in(self, code: str) -> str:
        """The verb agreeing with the subject."""
        return self.verb.forms[code][self.person]


def english_phrase(phrase: Phrase) -> str:
    """the big red house; an apple; two dogs."""
    adjectives = [adjective.forms["en"][0] for adjective in phrase.adjectives]
    words = " ".join([*adjectives, phrase.noun.forms["en"][phrase.many]])
    if phrase.number:
        return f"{phrase.number['en']} {words}"
    article = "the" if phrase.article != "a" else "an" if words[0] in "aeio" else "a"
    return f"{article} {words}"


def french_joined(first: str, rest: str) -> str:
    """le + homme -> l'homme."""
    elided = first in ("le", "la", "je", "ne", "de") and (rest[0] in FRENCH_VOWELS or rest.startswith(FRENCH_SILENT_H))
    return f"{first[:-1]}'{rest}" if elided else f"{first} {rest}"


def french_phrase(phrase: Phrase, *, negated: bool = False) -> str:
    """la grande maison rouge; deux chiens; after a negation, "un" becomes "de"."""
    female, plural = phrase.noun.gender["fr"] == "f", "s" if phrase.many else ""
    sizes = [adjective.forms["fr"][female] + plural for adjective in phrase.adjectives if adjective.is_size]
    colours = [adjective.forms["fr"][female] + plural for adjective in phrase.adjectives if not adjective.is_size]
    words = " ".join([*sizes, phrase.noun.forms["fr"][phrase.many], *colours])
    if phrase.number:
        return f"{phrase.number['fr']} {words}"
    if phrase.article == "a":
        return french_joined("de", words) if negated else f"{'une' if female else 'un'} {words}"
    return f"les {words}" if phrase.many else french_joined("la" if female else "le", words)


def spanish_phrase(phrase: Phrase) -> str:
    """la casa roja grande; dos perros."""
    female, plural = phrase.noun.gender["es"] == "f", "s" if phrase.many else ""
    colour_first = sorted(phrase.adjectives, key=lambda adjective: adjective.is_size)
    adjectives = [adjective.forms["es"][female] + plural for adjective in colour_first]
    articles = {"the": ("el", "la"), "all": ("los", "las"), "a": ("un", "una")}
    article = phrase.number["es"] if phrase.number else articles[phrase.article][female]
    return " ".join([article, phrase.noun.forms["es"][phrase.many], *adjectives])


def german_phrase(phrase: Phrase, *, accusative: bool = False, negated: bool = False) -> str:
    """das große rote Haus; as an object "den großen Hund"; negated "keinen großen Hund"."""
    article, ending = _german_endings(phrase, accusative=accusative, negated=negated)
    adjectives = [adjective.forms["de"][0] + ending for adjective in phrase.adjectives]
    return " ".join([article, *adjectives, phrase.noun.forms["de"][phrase.many]])


def _german_endings(phrase: Phrase, *, accusative: bool, negated: bool) -> tuple[str, str]:
    gender = phrase.noun.gender["de"]
    whom = gender == "m" and accusative
    if phrase.number:
        return phrase.number["de"], "e"
    if phrase.many:
        return "die", "en"
    if phrase.article == "the":
        return ("den", "en") if whom else ({"m": "der", "f": "die", "n": "das"}[gender], "e")
    article = ("k" if negated else "") + "ein" + ("en" if whom else "e" if gender == "f" else "")
    return article, "en" if whom else {"m": "er", "f": "e", "n": "es"}[gender]


def english_clause(clause: Clause) -> str:
    """the man does not see a horse."""
    subject = english_phrase(clause.subject) if isinstance(clause.subject, Phrase) else clause.subject["en"]
    verb = clause.verb_in("en")
    if clause.negated:
        verb = f"{'does' if clause.person == 1 else 'do'} not {clause.verb.forms['en'][0]}"
    return _placed(clause, "en", f"{subject} {verb} {english_phrase(clause.what)}")


def french_clause(clause: Clause) -> str:
    """l'homme ne voit pas de cheval."""
    subject = french_phrase(clause.subject) if isinstance(clause.subject, Phrase) else clause.subject["fr"]
    verb = clause.verb_in("fr")
    if clause.negated:
        verb = french_joined("ne", verb) + " pas"
    words = f"{french_joined(subject, verb)} {french_phrase(clause.what, negated=clause.negated)}"
    return _placed(clause, "fr", words, comma=",")


def spanish_clause(clause: Clause) -> str:
    """no vemos al perro: "I" and "we" are dropped, seen and loved beings take "a"."""
    what, verb = spanish_phrase(clause.what), clause.verb_in("es")
    beloved = clause.what.noun.kind == "being" and clause.what.article in ("the", "all")
    if beloved and clause.verb.forms["en"][0] in ("see", "love"):
        what = f"al {what[3:]}" if what.startswith("el ") else f"a {what}"
    if clause.negated:
        verb = f"no {verb}"
    subject = spanish_phrase(clause.subject) if isinstance(clause.subject, Phrase) else clause.subject["es"]
    lead = "" if subject in ("yo", "nosotros") else f"{subject} "
    return _placed(clause, "es", f"{lead}{verb} {what}")


def german_clause(clause: Clause) -> str:
    """heute sieht der Mann den Hund: a time in front moves the verb before the subject."""
    subject = german_phrase(clause.subject) if isinstance(clause.subject, Phrase) else clause.subject["de"]
    what, verb = german_phrase(clause.what, accusative=True, negated=clause.negated), clause.verb_in("de")
    if clause.negated and clause.what.article != "a":
        what += " nicht"
    order = (verb, subject) if clause.shape == "time" else (subject, verb)
    return _placed(clause, "de", " ".join([*order, what]))


def _placed(clause: Clause, code: str, words: str, comma: str = "") -> str:
    if clause.shape == "place":
        return f"{words} {clause.place[code]}"
    return f"{clause.time[code]}{comma} {words}" if clause.shape == "time" else words


def clause_in_all(clause: Clause) -> dict[str, str]:
    """The clause in four languages, without capital and full stop."""
    return {
        "en": english_clause(clause),
        "fr": french_clause(clause),
        "es": spanish_clause(clause),
        "de": german_clause(clause),
    }


def question_in_all(thing: Phrase) -> dict[str, str]:
    """Where is the red house?"""
    english, french, _, german = _be(thing.many)
    return {
        "en": f"where {english} {english_phrase(thing)}?",
        "fr": f"où {french} {french_phrase(thing)} ?",
        "es": f"¿dónde {'están' if thing.many else 'está'} {spanish_phrase(thing)}?",
        "de": f"wo {german} {german_phrase(thing)}?",
    }


def description_in_all(thing: Phrase, quality: Adjective) -> dict[str, str]:
    """The house is red."""
    english, french, spanish, german = _be(thing.many)
    plural = "s" if thing.many else ""
    agreed = {code: quality.forms[code][thing.noun.gender[code] == "f"] + plural for code in ("fr", "es")}
    return {
        "en": f"{english_phrase(thing)} {english} {quality.forms['en'][0]}",
        "fr": f"{french_phrase(thing)} {french} {agreed['fr']}",
        "es": f"{spanish_phrase(thing)} {spanish} {agreed['es']}",
        "de": f"{german_phrase(thing)} {german} {quality.forms['de'][0]}",
    }


def _be(many: bool) -> tuple[str, str, str, str]:
    return ("are", "sont", "son", "sind") if many else ("is", "est", "es", "ist")
