"""Downloads from a local HTTP server, and multi30k by way of one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from imitkd.corpora import Fetching, multi30k, prepare, read_split
from imitkd.corpora.download import Retry, cache_directory, download
from imitkd.corpora.store import file_sha256
from seq2seq.corpus import Example
from seq2seq.errors import UserError
from tests.http_files import Server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def retry(pauses: list[float]) -> Retry:
    return Retry(attempts=3, timeout_s=10, sleep=pauses.append)


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = b"x" * 200_000
    path = tmp_path / "cache" / "a"
    assert download(server.url + "/a", path).read_bytes() == server.files["/a"]
    download(server.url + "/a", path, sha256=file_sha256(path))
    assert server.requests == ["/a"]
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_copy_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = b"right"
    path = tmp_path / "a"
    path.write_bytes(b"right")
    digest = file_sha256(path)
    path.write_bytes(b"wrong")
    assert download(server.url + "/a", path, sha256=digest).read_bytes() == b"right"


@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_passing_faults_are_tried_again(
    server: Server, tmp_path: Path, retry: Retry, pauses: list[float], fault: int | str
) -> None:
    server.files["/a"] = b"whole file"
    server.faults["/a"] = [fault, fault]
    assert download(server.url + "/a", tmp_path / "a", retry=retry).read_bytes() == b"whole file"
    assert pauses == [1.0, 2.0]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [([404], r"HTTP 404; 1 attempt"), ([503] * 3, r"HTTP 503; 3 attempts"), (["cut"] * 3, "bytes")],
)
def test_lasting_faults_are_one_line_and_leave_nothing(
    server: Server, tmp_path: Path, retry: Retry, faults: list[int | str], reason: str
) -> None:
    server.files["/a"] = b"whole file"
    server.faults["/a"] = list(faults)
    with pytest.raises(UserError, match=rf"cannot download {server.url}/a .*{reason}.*--from"):
        download(server.url + "/a", tmp_path / "a", retry=retry)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == len(faults)


def test_a_wrong_digest_is_refused(server: Server, tmp_path: Path, retry: Retry) -> None:
    server.files["/a"] = b"tampered"
    with pytest.raises(UserError, match=r"its sha256 is [0-9a-f]{64}, not 00"):
        download(server.url + "/a", tmp_path / "a", sha256="00", retry=retry)
    assert list(tmp_path.iterdir()) == []


def test_nobody_listening_is_one_line(server: Server, tmp_path: Path, retry: Retry) -> None:
    server.close()
    with pytest.raises(UserError, match="Connection refused; 3 attempts"):
        download(server.url + "/a", tmp_path / "a", retry=retry)


def test_a_cache_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot create the cache.*IMITKD_CACHE"):
        download(server.url + "/a", tmp_path / "file" / "a")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMITKD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/imitkd")
    monkeypatch.setenv("IMITKD_CACHE", "/mine")
    assert cache_directory() == Path("/mine")


def _captions(sizes: dict[str, int]) -> dict[str, bytes]:
    """Files of multi30k's form and names with captions of our own."""
    files = {}
    for stem in multi30k.FILES.values():
        for language, word in (("de", "Hund"), ("en", "dog")):
            lines = "".join(f"{word} {stem} {n}\n" for n in range(sizes.get(stem, 3)))
            files[f"{stem}.{language}.gz"] = gzip.compress(lines.encode(), mtime=0)
    return files


@pytest.fixture
def captions(server: Server) -> dict[str, bytes]:
    files = _captions({"train": 20})
    server.files = {f"/raw/{name}": body for name, body in files.items()}
    return files


def _fetching(server: Server, tmp_path: Path, retry: Retry) -> Fetching:
    return Fetching(tmp_path / "cache", server.url + "/raw/", sha256={}, retry=retry)


def test_multi30k_is_downloaded_and_kept(
    server: Server, captions: dict[str, bytes], tmp_path: Path, retry: Retry
) -> None:
    fetching = _fetching(server, tmp_path, retry)
    info = prepare("multi30k-de-en", tmp_path / "out", fetching=fetching)
    assert info.splits == {"train": 20, "validation": 3, "test": 3, "test_2017": 3}
    assert (info.source_language, info.target_language) == ("de", "en")
    assert "differ from the published" in info.origin
    first = read_split(tmp_path / "out", "test_2017")[0]
    assert first == Example("Hund test_2017_flickr 0", ("dog test_2017_flickr 0",))
    assert len(server.requests) == 8

    other = prepare("multi30k-en-de", tmp_path / "reverse", fetching=fetching)
    assert (other.source_language, other.target_language) == ("en", "de")
    assert read_split(tmp_path / "reverse", "test")[0].source.startswith("dog")
    stamp = (tmp_path / "out" / "corpus.json").stat().st_mtime_ns
    prepare("multi30k-de-en", tmp_path / "out", fetching=fetching)
    assert (tmp_path / "out" / "corpus.json").stat().st_mtime_ns == stamp
    assert len(server.requests) == 8


def test_multi30k_from_a_folder(captions: dict[str, bytes], tmp_path: Path) -> None:
    for name, body in captions.items():
        (tmp_path / name).write_bytes(body)
    info = prepare("multi30k-de-en", tmp_path / "out", source=tmp_path)
    assert info.splits["train"] == 20
    (tmp_path / "val.en.gz").unlink()
    with pytest.raises(UserError, match=r"lacks val\.en\.gz"):
        prepare("multi30k-de-en", tmp_path / "out2", source=tmp_path)
    with pytest.raises(UserError, match="is not a directory"):
        prepare("multi30k-de-en", tmp_path / "out2", source=tmp_path / "absent")


def test_multi30k_files_other_than_the_published_are_refused(
    server: Server, captions: dict[str, bytes], tmp_path: Path, retry: Retry
) -> None:
    fetching = Fetching(tmp_path / "cache", server.url + "/raw", retry=retry)
    with pytest.raises(UserError, match=r"train\.de\.gz .*its sha256 is"):
        prepare("multi30k-de-en", tmp_path / "out", fetching=fetching)
    assert not (tmp_path / "out").exists()


def test_multi30k_cut_off_gzip_is_one_line(captions: dict[str, bytes], tmp_path: Path) -> None:
    captions["train.en.gz"] = captions["train.en.gz"][:-12]
    for name, body in captions.items():
        (tmp_path / name).write_bytes(body)
    with pytest.raises(UserError, match=r"train\.en\.gz' cannot be read"):
        prepare("multi30k-de-en", tmp_path / "out", source=tmp_path)
    assert not (tmp_path / "out").exists()
