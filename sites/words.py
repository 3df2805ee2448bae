"""Words of tables and messages: how names are compared, counted and told."""

import unicodedata

import pandas as pd


def composed(text: str) -> str:
    """Return the text with accents composed (NFC): macOS takes them apart, an umlaut is two characters."""
    return unicodedata.normalize("NFC", text)


def counted(count: int, noun: str) -> str:
    """Return "1 image" or "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def tally(words: "pd.Series[str]", most: int = 10) -> tuple[str, str]:
    """Return the first word, and the other distinct ones as the end of a sentence (or nothing).

    In the order of their rows, each with its number of rows where it has several: ``'mole' (3 rows)`` and
    ``; nor are 'x', 'y' (2 rows) and 4 more``. ``most`` words are named in all.
    """
    rows = words.value_counts()
    told = [
        f"'{word}'" + (f" ({rows[word]} rows)" if rows[word] > 1 else "") for word in words.drop_duplicates()
    ]
    rest = len(told) - most
    others = ", ".join(told[1:most]) + (f" and {rest} more" if rest > 0 else "")
    return told[0], f"; nor are {others}" if others else ""
