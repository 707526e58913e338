"""The words the demo model knows, in four languages. Nothing else of these languages is in the model.

Tables are text so that they can be read and extended as tables; a word that has two forms writes them as `one/many`.
"""

from dataclasses import dataclass
from typing import Literal

CODES = ("en", "fr", "es", "de")
LANGUAGES = {"French": "fr", "Spanish": "es", "German": "de"}
Gender = Literal["m", "f", "n"]

# kind | English | French gender word | Spanish gender word | German gender word
NOUN_TABLE = """
being  | cat/cats             | m chat/chats             | m gato/gatos             | f Katze/Katzen
being  | dog/dogs             | m chien/chiens           | m perro/perros           | m Hund/Hunde
being  | horse/horses         | m cheval/chevaux         | m caballo/caballos       | n Pferd/Pferde
being  | bird/birds           | m oiseau/oiseaux         | m pájaro/pájaros         | m Vogel/Vögel
person | man/men              | m homme/hommes           | m hombre/hombres         | m Mann/Männer
person | woman/women          | f femme/femmes           | f mujer/mujeres          | f Frau/Frauen
person | girl/girls           | f fille/filles           | f niña/niñas             | n Mädchen/Mädchen
person | boy/boys             | m garçon/garçons         | m niño/niños             | m Junge/Jungen
person | teacher/teachers     | m professeur/professeurs | m profesor/profesores    | m Lehrer/Lehrer
food   | apple/apples         | f pomme/pommes           | f manzana/manzanas       | m Apfel/Äpfel
food   | egg/eggs             | m œuf/œufs               | m huevo/huevos           | n Ei/Eier
food   | cake/cakes           | m gâteau/gâteaux         | m pastel/pasteles        | m Kuchen/Kuchen
food   | banana/bananas       | f banane/bananes         | f banana/bananas         | f Banane/Bananen
food   | pear/pears           | f poire/poires           | f pera/peras             | f Birne/Birnen
food   | tomato/tomatoes      | f tomate/tomates         | m tomate/tomates         | f Tomate/Tomaten
food   | orange/oranges       | f orange/oranges         | f naranja/naranjas       | f Orange/Orangen
drink  | coffee/coffees       | m café/cafés             | m café/cafés             | m Kaffee/Kaffees
drink  | tea/teas             | m thé/thés               | m té/tés                 | m Tee/Tees
drink  | juice/juices         | m jus/jus                | m zumo/zumos             | m Saft/Säfte
drink  | beer/beers           | f bière/bières           | f cerveza/cervezas       | n Bier/Biere
text   | book/books           | m livre/livres           | m libro/libros           | n Buch/Bücher
text   | letter/letters       | f lettre/lettres         | f carta/cartas           | m Brief/Briefe
text   | newspaper/newspapers | m journal/journaux       | m periódico/periódicos   | f Zeitung/Zeitungen
thing  | house/houses         | f maison/maisons         | f casa/casas             | n Haus/Häuser
thing  | car/cars             | f voiture/voitures       | m coche/coches           | n Auto/Autos
thing  | table/tables         | f table/tables           | f mesa/mesas             | m Tisch/Tische
thing  | door/doors           | f porte/portes           | f puerta/puertas         | f Tür/Türen
thing  | chair/chairs         | f chaise/chaises         | f silla/sillas           | m Stuhl/Stühle
thing  | key/keys             | f clé/clés               | f llave/llaves           | m Schlüssel/Schlüssel
thing  | tree/trees           | m arbre/arbres           | m árbol/árboles          | m Baum/Bäume
thing  | flower/flowers       | f fleur/fleurs           | f flor/flores            | f Blume/Blumen
thing  | hat/hats             | m chapeau/chapeaux       | m sombrero/sombreros     | m Hut/Hüte
thing  | bag/bags             | m sac/sacs               | f bolsa/bolsas           | f Tasche/Taschen
thing  | shoe/shoes           | f chaussure/chaussures   | m zapato/zapatos         | m Schuh/Schuhe
thing  | phone/phones         | m téléphone/téléphones   | m teléfono/teléfonos     | n Telefon/Telefone
thing  | bicycle/bicycles     | m vélo/vélos             | f bicicleta/bicicletas   | n Fahrrad/Fahrräder
thing  | lamp/lamps           | f lampe/lampes           | f lámpara/lámparas       | f Lampe/Lampen
thing  | clock/clocks         | f horloge/horloges       | m reloj/relojes          | f Uhr/Uhren
"""

# kinds of object | English I, he | forms for I, he, we, they in French, Spanish and German
VERB_TABLE = """
food|eat eats|mange mange mangeons mangent|como come comemos comen|esse isst essen essen
drink|drink drinks|bois boit buvons boivent|bebo bebe bebemos beben|trinke trinkt trinken trinken
text|read reads|lis lit lisons lisent|leo lee leemos leen|lese liest lesen lesen
any|see sees|vois voit voyons voient|veo ve vemos ven|sehe sieht sehen sehen
any|have has|ai a avons ont|tengo tiene tenemos tienen|habe hat haben haben
any|love loves|aime aime aimons aiment|amo ama amamos aman|liebe liebt lieben lieben
any|buy buys|achète achète achetons achètent|compro compra compramos compran|kaufe kauft kaufen kaufen
any|sell sells|vends vend vendons vendent|vendo vende vendemos venden|verkaufe verkauft verkaufen verkaufen
any|want wants|veux veut voulons veulent|quiero quiere queremos quieren|will will wollen wollen
any|find finds|trouve trouve trouvons trouvent|encuentro encuentra encontramos encuentran|finde findet finden finden
any|carry carries|porte porte portons portent|llevo lleva llevamos llevan|trage trägt tragen tragen
"""

# size or colour | English | French masculine, feminine | Spanish masculine, feminine | German stem
ADJECTIVE_TABLE = """
size   | big   | grand grande  | grande grande   | groß
size   | small | petit petite  | pequeño pequeña | klein
colour | red   | rouge rouge   | rojo roja       | rot
colour | black | noir noire    | negro negra     | schwarz
colour | white | blanc blanche | blanco blanca   | weiß
colour | green | vert verte    | verde verde     | grün
"""

PLACE_TABLE = """
in the garden  | dans le jardin  | en el jardín   | im Garten
at the market  | au marché       | en el mercado  | auf dem Markt
in the kitchen | dans la cuisine | en la cocina   | in der Küche
at the station | à la gare       | en la estación | am Bahnhof
at school      | à l'école       | en la escuela  | in der Schule
in the city    | en ville        | en la ciudad   | in der Stadt
"""

TIME_TABLE = """
today     | aujourd'hui    | hoy            | heute
now       | maintenant     | ahora          | jetzt
sometimes | parfois        | a veces        | manchmal
every day | tous les jours | todos los días | jeden Tag
"""

PRONOUN_TABLE = """
I    | je  | yo       | ich
he   | il  | él       | er
she  | elle | ella    | sie
we   | nous | nosotros | wir
they | ils | ellos    | sie
"""

NUMBER_TABLE = """
one       | un       | uno        | eins
two       | deux     | dos        | zwei
three     | trois    | tres       | drei
four      | quatre   | cuatro     | vier
five      | cinq     | cinco      | fünf
six       | six      | seis       | sechs
seven     | sept     | siete      | sieben
eight     | huit     | ocho       | acht
nine      | neuf     | nueve      | neun
ten       | dix      | diez       | zehn
eleven    | onze     | once       | elf
twelve    | douze    | doce       | zwölf
thirteen  | treize   | trece      | dreizehn
fourteen  | quatorze | catorce    | vierzehn
fifteen   | quinze   | quince     | fünfzehn
sixteen   | seize    | dieciséis  | sechzehn
seventeen | dix-sept | diecisiete | siebzehn
eighteen  | dix-huit | dieciocho  | achtzehn
nineteen  | dix-neuf | diecinueve | neunzehn
twenty    | vingt    | veinte     | zwanzig
"""

PHRASE_TABLE = """
Good morning        | Bonjour            | Buenos días      | Guten Morgen
Good evening        | Bonsoir            | Buenas tardes    | Guten Abend
Good night          | Bonne nuit         | Buenas noches    | Gute Nacht
Thank you           | Merci              | Gracias          | Danke
Thank you very much | Merci beaucoup     | Muchas gracias   | Vielen Dank
Please              | S'il vous plaît    | Por favor        | Bitte
Goodbye             | Au revoir          | Adiós            | Auf Wiedersehen
Yes                 | Oui                | Sí               | Ja
No                  | Non                | No               | Nein
See you tomorrow    | À demain           | Hasta mañana     | Bis morgen
Welcome             | Bienvenue          | Bienvenidos      | Willkommen
Happy birthday      | Joyeux anniversaire | Feliz cumpleaños | Alles Gute zum Geburtstag
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """A thing or a being: `forms` holds (one, many) for each language, `gender` is absent for English."""

    kind: str
    forms: dict[str, tuple[str, str]]
    gender: dict[str, Gender]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """`forms` for I, he, we, they in each language; `objects` is the kind of noun it takes, or "any"."""

    objects: str
    forms: dict[str, tuple[str, str, str, str]]

    def takes(self, noun: Noun) -> bool:
        """Whether this may be done to `noun`."""
        return self.objects in ("any", noun.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjective:
    """`forms` is (masculine, feminine) for French and Spanish, (word, word) for English and German."""

    is_size: bool
    forms: dict[str, tuple[str, str]]


def read_table(table: str) -> list[list[str]]:
    """Rows of cells."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def read_translations(table: str) -> list[dict[str, str]]:
    """Rows of a table that holds nothing but the same words in four languages."""
    return [dict(zip(CODES, row, strict=True)) for row in read_table(table)]


def read_noun(row: list[str]) -> Noun:
    """One row of the table of nouns."""
    kind, english, *others = row
    gender, forms = {}, {"en": english}
    for code, cell in zip(CODES[1:], others, strict=True):
        gender[code], forms[code] = cell.split()
    return Noun(kind=kind, forms={code: tuple(word.split("/")) for code, word in forms.items()}, gender=gender)


def read_verb(row: list[str]) -> Verb:
    """One row of the table of verbs."""
    objects, english, *others = row
    me, he = english.split()
    forms = {code: tuple(cell.split()) for code, cell in zip(CODES[1:], others, strict=True)}
    return Verb(objects=objects, forms={"en": (me, he, me, me)} | forms)


def read_adjective(row: list[str]) -> Adjective:
    """One row of the table of adjectives."""
    kind, *cells = row
    pairs = (cell.split() for cell in cells)
    return Adjective(
        is_size=kind == "size", forms=dict(zip(CODES, ((pair[0], pair[-1]) for pair in pairs), strict=True))
    )


NOUNS = [read_noun(row) for row in read_table(NOUN_TABLE)]
VERBS = [read_verb(row) for row in read_table(VERB_TABLE)]
ADJECTIVES = [read_adjective(row) for row in read_table(ADJECTIVE_TABLE)]
PLACES, TIMES, PRONOUNS, NUMBERS, PHRASES = map(
    read_translations, (PLACE_TABLE, TIME_TABLE, PRONOUN_TABLE, NUMBER_TABLE, PHRASE_TABLE)
)
NAMES = (
    *("Anna", "Ben", "Carla", "David", "Eva", "Felix", "Greta", "Hugo", "Ines", "Jan"),
    *("Kira", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor"),
)
HOURS = ("noon", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KNOWN = {word for noun in NOUNS for word in noun.forms["en"]} | {word for verb in VERBS for word in verb.forms["en"]}
