"""Corpora: named ones that are downloaded, and one's own files, prepared as corpus directories.

`prepare(name, out_dir)` is idempotent and atomic; `read_split(out_dir, "train")` reads back.
"""

from __future__ import annotations

from imitkd.corpora.own_files import OwnFiles, TextFiles
from imitkd.corpora.registry import CorpusEntry, Fetching, list_corpora, prepare
from imitkd.corpora.store import CorpusInfo, read_info
from seq2seq.corpus import Example, read_split

__all__ = [
    "CorpusEntry",
    "CorpusInfo",
    "Example",
    "Fetching",
    "OwnFiles",
    "TextFiles",
    "list_corpora",
    "prepare",
    "read_info",
    "read_split",
]
