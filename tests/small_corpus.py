"""A small parallel text that a tiny model learns in seconds: phrases with word order that differs.

German puts the infinitive last ("Wähle X, um Y zu öffnen") and joins nouns, so the task is more
than word for word, yet has few words.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

_NOUNS = [
    ("door", "die Tür"), ("window", "das Fenster"), ("light", "das Licht"),
    ("heater", "die Heizung"), ("garage", "die Garage"), ("camera", "die Kamera"),
    ("lock", "das Schloss"), ("sensor", "den Sensor"), ("fan", "den Lüfter"),
    ("valve", "das Ventil"), ("pump", "die Pumpe"), ("alarm", "den Alarm"),
]  # fmt: skip
_VERBS = [
    ("open", "öffnen"), ("close", "schließen"), ("check", "prüfen"), ("lock", "sperren"),
    ("start", "starten"), ("stop", "stoppen"), ("reset", "zurücksetzen"), ("move", "bewegen"),
]  # fmt: skip
_PLACES = [
    ("in the kitchen", "in der Küche"), ("in the cellar", "im Keller"),
    ("upstairs", "oben"), ("outside", "draußen"), ("at night", "nachts"),
]  # fmt: skip


def pairs(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """``count`` distinct (English, German) pairs in random order."""
    everything = [
        (
            f"{verb} the {noun} {place} to {second} the {other}",
            f"{place_de} {noun_de} {verb_de}, um {other_de} zu {second_de}",
        )
        for (noun, noun_de), (verb, verb_de), (place, place_de), (other, other_de), (
            second,
            second_de,
        ) in itertools.product(_NOUNS, _VERBS, _PLACES, _NOUNS, _VERBS)
        if noun != other and verb != second
    ]
    return random.Random(seed).sample(everything, count)


def write_files(directory: Path, count: int) -> tuple[Path, Path]:
    """The pairs as two line-aligned files, for ``imitkd data prepare``."""
    english, german = directory / "text.en", directory / "text.de"
    chosen = pairs(count)
    english.write_text("".join(e + "\n" for e, _ in chosen))
    german.write_text("".join(g + "\n" for _, g in chosen))
    return english, german
