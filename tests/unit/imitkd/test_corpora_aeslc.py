"""`aeslc` from a folder, an archive, lines of JSON, and by way of a local HTTP server."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from imitkd.corpora import Fetching, aeslc, prepare, read_split
from imitkd.corpora.download import Retry
from seq2seq.corpus import Example
from seq2seq.errors import UserError
from tests.http_files import Server

MAILS = {
    "train/a_sent_1.subject": b"Greg,\n\nthe  agreement is\r\nattached.\n"
    b"\n@subject\nService agreement\n",
    "train/a_sent_10.subject": b"Write to me@subject.org\n@subject \nAn address",
    "train/b_sent_2.subject": b"\n\n@subject\nno text at all\n",
    "dev/c_inbox_3.subject": b"We meet on Tuesday.\n@subject\nMeeting\n\n@ann0\nmeeting tuesday\n\n"
    b"@ann1\nMeeting\n\n@ann2\ntuesday's meeting",
    "test/d_inbox_4.subject": b"Reports wait.\n\n@subject\nReports\n\n@ann0\n reports  waiting\n",
}
EXPECTED = {
    "train": [
        Example("Greg, the agreement is attached.", ("Service agreement",)),
        Example("Write to me@subject.org", ("An address",)),
    ],
    "validation": [
        Example("We meet on Tuesday.", ("Meeting", "meeting tuesday", "tuesday's meeting"))
    ],
    "test": [Example("Reports wait.", ("Reports", "reports waiting"))],
}
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "aeslc"


def archive(mails: dict[str, bytes]) -> bytes:
    """A .tar.gz as GitHub makes it: all below one folder, other files among them."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, content in ({"../README.md": b"# AESLC\n"} | mails).items():
            member = tarfile.TarInfo(f"AESLC-1/enron_subject_line/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def check(directory: Path) -> None:
    assert {split: read_split(directory, split) for split in EXPECTED} == EXPECTED


def test_a_copy_of_the_repository_and_its_archive_are_one_corpus(tmp_path: Path) -> None:
    for name, content in MAILS.items():
        file = tmp_path / "copy" / "enron_subject_line" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "aeslc.tar.gz").write_bytes(archive(MAILS))
    one = prepare("aeslc", tmp_path / "one", source=tmp_path / "copy")
    two = prepare("aeslc", tmp_path / "two", source=tmp_path / "aeslc.tar.gz")
    assert one == two and one.splits == {"train": 2, "validation": 1, "test": 1}
    assert "differ from the published" in one.origin and one.licence == "CC-BY-NC-SA-4.0"
    check(tmp_path / "one")
    check(tmp_path / "two")


def test_lines_of_json(tmp_path: Path) -> None:
    for split, stem in aeslc.SPLITS.items():
        rows = [
            {"source": e.source, "target": e.references[0], "references": e.references[1:]}
            for e in EXPECTED[split]
        ]
        (tmp_path / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("aeslc", tmp_path / "out", source=tmp_path)
    check(tmp_path / "out")


def fetching(server: Server, tmp_path: Path, sha256: dict[str, str] | None) -> Fetching:
    retry = Retry(attempts=2, timeout_s=10, sleep=lambda _: None)
    return Fetching(tmp_path / "cache", server.url, sha256=sha256, retry=retry)


def test_it_is_downloaded_once_and_kept(server: Server, tmp_path: Path) -> None:
    server.files[f"/{aeslc.COMMIT}"] = archive(MAILS)
    server.faults[f"/{aeslc.COMMIT}"] = [503]
    known = {"aeslc": aeslc.digest(MAILS)}
    for _ in range(2):
        info = prepare("aeslc", tmp_path / "out", fetching=fetching(server, tmp_path, known))
        assert info.splits["train"] == 2
    assert server.requests == [f"/{aeslc.COMMIT}"] * 2  # the fault, then the file
    check(tmp_path / "out")


def test_other_emails_than_the_published_are_refused(server: Server, tmp_path: Path) -> None:
    server.files[f"/{aeslc.COMMIT}"] = archive(MAILS)
    with pytest.raises(UserError, match=r"have sha256 [0-9a-f]{64}, not e0242c7b.*--from"):
        prepare("aeslc", tmp_path / "out", fetching=fetching(server, tmp_path, None))
    assert not (tmp_path / "out").exists() and not list((tmp_path / "cache").rglob("*.gz"))


def test_a_torn_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "aeslc.tar.gz").write_bytes(archive(MAILS)[:-40])
    with pytest.raises(UserError, match=r"is not a whole \.tar\.gz") as caught:
        prepare("aeslc", tmp_path / "out", source=tmp_path / "aeslc.tar.gz")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_faults_of_files_at_hand_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a copy of the AESLC repository"):
        prepare("aeslc", tmp_path / "out", source=tmp_path)
    without_test = {k: v for k, v in MAILS.items() if not k.startswith("test/")}
    (tmp_path / "a.tar.gz").write_bytes(archive(without_test))
    with pytest.raises(UserError, match=r"holds no e-mails enron_subject_line/test"):
        prepare("aeslc", tmp_path / "out", source=tmp_path / "a.tar.gz")
    (tmp_path / "b.tar.gz").write_bytes(archive(MAILS | {"dev/e.subject": b"\xff@subject\nx"}))
    with pytest.raises(UserError, match=r"dev/e\.subject is not UTF-8"):
        prepare("aeslc", tmp_path / "out", source=tmp_path / "b.tar.gz")


def test_gaps_are_of_the_emails_alone_and_none_of_the_test_split(tmp_path: Path) -> None:
    long = "The gas contract ends. We want a gas contract. It is May.\n@subject\nContract\n"
    more = {
        "train/z.subject": long.encode(),
        "dev/same.subject": long.upper().replace("@SUBJECT", "@subject").encode(),
        "dev/other.subject": long.replace("gas", "oil").encode(),
        "test/z.subject": long.encode(),
    }
    (tmp_path / "a.tar.gz").write_bytes(archive(MAILS | more))
    info = prepare("aeslc+gaps", tmp_path / "gaps", source=tmp_path / "a.tar.gz")
    assert info.name == "aeslc+gaps" and info.splits == {"train": 1, "validation": 1}
    # What train has in other case is left out.
    assert read_split(tmp_path / "gaps", "validation") == [
        Example("We want a oil contract. It is May.", ("The oil contract ends.",))
    ]
    prepare("aeslc", tmp_path / "plain", source=tmp_path / "a.tar.gz")
    assert len(read_split(tmp_path / "plain", "train")) == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the corpus is not at hand")
def test_the_published_corpus(tmp_path: Path) -> None:
    info = prepare("aeslc", tmp_path / "out", source=SHARED)
    assert info.splits == {"train": 14_436, "validation": 1_960, "test": 1_906}
    counts = [len(e.references) for e in read_split(tmp_path / "out", "test")]
    assert set(counts) <= {1, 2, 3, 4} and sum(c == 4 for c in counts) > 1_500
    assert all(len(e.references) == 1 for e in read_split(tmp_path / "out", "train"))
