"""The paper's corpora from small files in the forms they are handed out in."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from imitkd.corpora import prepare
from seq2seq.corpus import Example, read_split
from seq2seq.errors import UserError


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def splits(name: str, source: Path, out: Path) -> dict[str, list[Example]]:
    info = prepare(name, out, source=source)
    found = {split: read_split(out, split) for split in info.splits}
    assert {split: len(pairs) for split, pairs in found.items()} == info.splits
    return found


def pairs(*texts: tuple[str, str]) -> list[Example]:
    return [Example(source, (target,)) for source, target in texts]


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """IWSLT'14 as released: fifty pairs among tags, and two of the four test sets."""
    root = tmp_path / "de-en"
    for language, word in (("de", "Satz"), ("en", "sentence")):
        body = [f" {word} {i} & more " for i in range(50)]
        head = ["<url>http://x</url>", "<title>A talk</title>", "<reviewer></reviewer>"]
        write(root / f"train.tags.de-en.{language}", *head, *body)
        for name in ("dev2010", "tst2012"):
            write(
                root / f"IWSLT14.TED.{name}.de-en.{language}.xml",
                '<?xml version="1.0" encoding="UTF-8"?>',
                f'<doc docid="1"><title>{word}</title>',
                f'<seg id="1"> {name} {word} eins &amp; zwei </seg>',
                f'<seg id="2">{name} {word} drei</seg>',
                "</doc>",
            )
    return root


def test_iwslt_as_released(talks: Path, tmp_path: Path) -> None:
    found = splits("iwslt14-de-en", talks, tmp_path / "out")
    assert found["validation"] == pairs(
        ("Satz 24 & more", "sentence 24 & more"), ("Satz 49 & more", "sentence 49 & more")
    )
    assert len(found["train"]) == 48 and found["train"][0].source == "Satz 0 & more"
    assert found["test"] == pairs(
        ("dev2010 Satz eins & zwei", "dev2010 sentence eins & zwei"),
        ("dev2010 Satz drei", "dev2010 sentence drei"),
        ("tst2012 Satz eins & zwei", "tst2012 sentence eins & zwei"),
        ("tst2012 Satz drei", "tst2012 sentence drei"),
    )


def test_a_test_set_with_a_segment_missing_is_refused(talks: Path, tmp_path: Path) -> None:
    write(talks / "IWSLT14.TED.dev2010.de-en.en.xml", '<seg id="1">one</seg>')
    with pytest.raises(UserError, match=r"has 2 segments and .* has 1"):
        prepare("iwslt14-de-en", tmp_path / "out", source=talks)


def test_iwslt_as_plain_files(tmp_path: Path) -> None:
    for stem in ("train", "valid", "test"):
        write(tmp_path / "in" / f"{stem}.de", f"{stem} ja", "", "nur hier")
        write(tmp_path / "in" / f"{stem}.en", f"{stem} yes", "only here", "just here")
    found = splits("iwslt14-de-en", tmp_path / "in", tmp_path / "out")
    assert found["test"] == pairs(("test ja", "test yes"), ("nur hier", "just here"))


def test_wmt_as_released(tmp_path: Path) -> None:
    root = tmp_path / "wmt"
    for name in ("commoncrawl", "news-commentary-v11"):
        write(root / f"{name}.de-en.en", f"{name} one", f"{name} two")
        write(root / f"{name}.de-en.de", f"{name} eins", f"{name} zwei")
    for year in ("2015", "2016"):
        write(root / f"newstest{year}-ende-src.en.sgm", f'<seg id="1">{year} &lt;b&gt;</seg>')
        write(root / f"newstest{year}-ende-ref.de.sgm", f'<seg id="1">{year} fett</seg>')
    found = splits("wmt16-en-de", root, tmp_path / "out")
    assert found["validation"] == pairs(("2015 <b>", "2015 fett"))
    assert found["test"] == pairs(("2016 <b>", "2016 fett"))
    assert found["train"][1:3] == pairs(
        ("commoncrawl two", "commoncrawl zwei"),
        ("news-commentary-v11 one", "news-commentary-v11 eins"),
    )


def test_wmt_as_plain_files_with_news_in_plain_text(tmp_path: Path) -> None:
    root = tmp_path / "wmt"
    write(root / "europarl-v7.de-en.en", "a")
    write(root / "europarl-v7.de-en.de", "b")
    for year in ("2013", "2014"):
        write(root / f"newstest{year}.en", f"{year} news")
        write(root / f"newstest{year}.de", f"{year} Nachrichten")
    found = splits("wmt16-en-de", root, tmp_path / "out")
    assert found["validation"] == pairs(("2013 news", "2013 Nachrichten"))
    (root / "newstest2013.de").unlink()
    with pytest.raises(UserError, match=r"does not hold wmt16-en-de; --from wants"):
        prepare("wmt16-en-de", tmp_path / "other", source=root)


STORY = ("(CNN) -- First line.", "", "Second line.", "", "@highlight", "", "It rained",
         "", "@highlight", "", "It stopped.")  # fmt: skip


def test_cnn_dailymail_stories(tmp_path: Path) -> None:
    root = tmp_path / "cnndm"
    for split in ("train", "val", "test"):
        urls = [f"http://x/{split}/{i}" for i in range(2)]
        write(root / f"all_{split}.txt", *urls, "http://x/missing")
        for url in urls:
            name = hashlib.sha1(url.encode()).hexdigest()
            write(root / "cnn" / "stories" / f"{name}.story", f"{url} says", *STORY)
    found = splits("cnn-dailymail", root, tmp_path / "out")
    assert {split: len(pairs) for split, pairs in found.items()} == {
        "train": 2, "validation": 2, "test": 2
    }  # fmt: skip
    assert found["test"][1] == Example(
        "http://x/test/1 says (CNN) -- First line. Second line.", ("It rained. It stopped.",)
    )


def test_cnn_dailymail_rows(tmp_path: Path) -> None:
    root = tmp_path / "cnndm"
    root.mkdir()
    row = {"article": "Long  text.", "highlights": "It rained\nIt stopped.", "id": "1"}
    for split in ("train", "validation", "test"):
        (root / f"{split}.jsonl.gz").write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
    found = splits("cnn-dailymail", root, tmp_path / "out")
    assert found["validation"] == pairs(("Long text.", "It rained. It stopped."))
    (root / "test.jsonl.gz").write_bytes(gzip.compress(b'{"article": "a"}\n'))
    with pytest.raises(UserError, match=r"test.jsonl.gz' line 1 is no object with 'article'"):
        prepare("cnn-dailymail", tmp_path / "other", source=root)


@pytest.mark.parametrize("name", ["iwslt14-de-en", "wmt16-en-de", "cnn-dailymail"])
def test_files_that_are_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name} is read from files at hand; pass --from"):
        prepare(name, tmp_path / "out")
    with pytest.raises(UserError, match=f"does not hold {name}; --from wants a folder with"):
        prepare(name, tmp_path / "out", source=tmp_path)
    assert not (tmp_path / "out").exists()
