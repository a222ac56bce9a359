"""Words that problems are made of: names, places, things. A few of each are held out."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from dsv4.tasks.problem import Split, belongs

NAMES = tuple(
    """Anna Ben Clara David Emma Felix Grace Henry Ivy Jack Kate Leo Mia Noah Olga Paul Rosa Sam
    Tina Victor Wendy Zoe Alice Boris Carla Daniel Elsa Frank Gina Hugo Irene James Karen Lucas
    Maria Nina Oscar Peter Quinn Ruth Simon Tom Ursula Vera Walter Yusuf Amir Bella Chen Dora Erik
    Fatima George Hana Ian Julia Kofi Laura Marco Nora Omar Pia Ravi Sara Tariq Uma Vikram Yara
    Ada Bruno Cora Diego Eva Finn Greta Hector Ines Jonas Kira Lena Milo Nadia Otto Priya Rita
    Stefan Thea Viola Wanda Xavier Yoko Zara Aaron Betty Cyrus Delia Edgar Flora Gustav Helen
    Isaac Joan Kevin Linda Martin Nell Owen Polly""".split()
)
CITIES = tuple(
    """Paris London Berlin Madrid Rome Vienna Oslo Lisbon Athens Dublin Prague Warsaw Cairo Lima
    Tokyo Delhi Sydney Boston Chicago Toronto Zurich Geneva Munich Hamburg Milan Naples Lyon Porto
    Seville Valencia Helsinki Stockholm Copenhagen Budapest Istanbul Nairobi Accra Lagos Havana
    Bogota Quito Santiago Denver Seattle Austin Dallas Miami Montreal Kyoto Osaka Seoul Bangkok
    Hanoi Manila Jakarta Mumbai Dakar Tunis Riga Tallinn""".split()
)
COLOURS = tuple(
    """red blue green yellow orange purple white black brown pink grey silver golden violet
    crimson turquoise""".split()
)
THINGS = tuple(
    """apple ball book box bottle brush bucket button candle card chair coin cup drum feather
    flag flower fork glove hammer hat jar kettle key kite ladder lamp leaf letter map mirror mug
    nail needle notebook orange pear pen pencil pillow plate potato ribbon ring rope ruler scarf
    shell shoe spoon stamp stone string sword teapot ticket torch towel umbrella vase violin watch
    wheel whistle basket blanket clock doll helmet magnet marble medal parcel puzzle trumpet
    lantern compass diary cushion biscuit cookie sticker pebble""".split()
)
ANIMALS = tuple(
    """cat dog horse cow sheep goat pig duck goose hen rabbit mouse fox wolf bear lion tiger
    monkey elephant giraffe zebra owl eagle crow swan frog turtle snake whale dolphin shark crab
    bee ant butterfly spider hedgehog squirrel deer otter beaver badger parrot penguin camel
    donkey""".split()
)
PLACES = tuple(
    """kitchen garden bedroom bathroom hallway office library attic cellar garage park school
    market station museum bakery church harbour forest farm barn theatre hospital pool""".split()
)
FOODS = tuple(
    """bread cheese soup rice pasta salad honey butter jam cake pie pizza noodles beans carrots
    onions tomatoes apples pears plums cherries grapes lemons bananas nuts eggs milk tea coffee
    cocoa""".split()
)
JOBS = tuple(
    """teacher baker farmer doctor nurse pilot sailor painter singer writer gardener carpenter
    tailor cook driver engineer lawyer dentist plumber potter weaver fisher miller
    librarian""".split()
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = tuple(
    """January February March April May June July August September October November
    December""".split()
)
COMMON = tuple(
    """about above after again air all also always animal answer around ask away back base be
    because before began begin being below between big blue boat body bring build call came care
    carry cause change city close cold come cook country cross cut dark day deep door draw dream
    drive dry early earth eat end even every face fall family far fast father feel field fire fish
    fly follow food foot form found free friend front garden girl give gold good great green
    ground group grow half hand happy hard head hear heart heat help high hold home horse hot hour
    house hundred idea island keep kind king know land large last laugh late learn leave left
    letter life light line list listen little live long look love low machine main make man mark
    mean measure money moon morning mother mountain move music name near never new next night
    north note number ocean old open order over page paper part pass people picture piece place
    plain plan plant play point power press problem pull question quick quiet rain reach read
    ready red rest right river road rock room round rule run sail sand school science sea second
    seed serve shape ship short show side simple sing sister size sleep slow small snow song soon
    sound south space spell spring stand star start state stay step stone stop story street strong
    study summer sun sure surface swim table tail talk teach tell thing think though thought three
    time together told tomorrow took top town travel tree true turn under until voice wait walk
    wall warm watch water wave weather week weight west wheel white whole wide wild wind window
    winter wise wish wonder wood word work world write yard year young""".split()
)

_ANY = (*COMMON, *THINGS, *ANIMALS, *PLACES, *FOODS, *JOBS)
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def choose(rng: Random, words: Sequence[str], split: Split) -> str:
    """One of `words` that belongs to the split."""
    while True:
        word = rng.choice(words)
        if belongs(word, split):
            return word


def choose_some(rng: Random, words: Sequence[str], split: Split, count: int) -> list[str]:
    """`count` different ones of `words` that belong to the split."""
    return rng.sample([word for word in words if belongs(word, split)], count)


def varied(rng: Random, words: Sequence[str], split: Split) -> str:
    """One of `words` that belongs to the split; in training mostly another word, a part of one or
    one that does not exist: to be learned is how to copy what was said, not which words there
    are."""
    if split == "heldout" or rng.random() < 0.25:
        return choose(rng, words, split)
    while True:
        kind = rng.random()
        word = rng.choice(_ANY) if kind < 0.45 else part(rng)
        if kind > 0.75:
            word = invent(rng, rng.randint(1, 3))
        word = word.capitalize() if words[0][0].isupper() else word
        if belongs(word, split):
            return word


def part(rng: Random) -> str:
    """Up to six letters of a word, such as "rarian": mostly no word, but of the tokens of words."""
    word, letters = rng.choice(_ANY), rng.randint(3, 6)
    start = rng.randrange(max(1, len(word) - letters + 1))
    return word[start : start + letters]


def invent(rng: Random, syllables: int) -> str:
    """A word that does not exist but can be spoken, such as "tolamen"."""
    parts = [rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(syllables)]
    return "".join(parts) + (rng.choice("lmnrst") if rng.random() < 0.5 else "")


def plural(noun: str) -> str:
    """The plural of a regular noun of the lists above."""
    irregular = {"leaf": "leaves", "knife": "knives", "mouse": "mice", "sheep": "sheep",
                 "goose": "geese", "wolf": "wolves", "deer": "deer", "fish": "fish"}  # fmt: skip
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")) or noun == "potato":
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return ("an " if noun[0].lower() in _VOWELS else "a ") + noun


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence: "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
