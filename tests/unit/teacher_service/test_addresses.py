"""What written addresses mean, with an injected name server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from teacher_service.addresses import AddressBook, Endpoint, look_up, written_addresses
from teacher_service.errors import TeacherRefused


class Names(dict[str, list[str]]):
    """A name server; an unknown name fails as the system's resolver does."""

    async def __call__(self, host: str) -> list[str]:
        if host not in self:
            raise OSError(-2, "Name or service not known")
        return self[host]


def read(book: AddressBook) -> list[str]:
    return [str(endpoint) for endpoint in asyncio.run(book.read())]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("a:1", ("a:1",)),
        (" a:1 , b:2,", ("a:1", "b:2")),
        (["a:1", "b:2,c:3", "a:1"], ("a:1", "b:2", "c:3")),
        ("unix:/tmp/x", ("unix:/tmp/x",)),
    ],
)
def test_several_addresses_in_every_way_of_writing_them(written, expected):
    assert written_addresses(written) == expected


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("", "no teacher address"),
        ([], "no teacher address"),
        (" , ", "no teacher address"),
        ("file:here.txt", "absolute path"),
        ("x", "'x' is no address; give HOST:PORT"),
        ("a:1,b:99999", "'b:99999' is no address"),
        ("a:0", "'a:0' is no address"),
        ("a:b", "'a:b' is no address"),
        (":5", "':5' is no address"),
        ("http://a:5", "'http://a:5' is no address"),
        ("a b:5", "'a b:5' is no address"),
        ("unix:", "'unix:' is no address"),
    ],
)
def test_addresses_that_cannot_be_meant(written, fault):
    with pytest.raises(TeacherRefused, match=fault):
        AddressBook(written)


@pytest.mark.parametrize("literal", ["10.0.0.1:5", "[::1]:5", "unix:/x", "ipv4:10.0.0.1:5"])
def test_what_is_no_name_is_taken_as_it_is_and_read_once(literal):
    book = AddressBook(literal, Names())
    assert read(book) == [literal]
    assert not book.may_change and book.trouble == ""


@pytest.mark.parametrize("written", ["teachers:5", "dns:///teachers:5"])
def test_a_name_with_several_addresses_is_that_many_replicas(written):
    names = Names(teachers=["10.0.0.2", "10.0.0.1"])
    book = AddressBook(written, names)
    assert asyncio.run(book.read()) == [
        Endpoint("10.0.0.2:5", "teachers"),
        Endpoint("10.0.0.1:5", "teachers"),
    ]
    assert book.may_change
    names["teachers"] = ["10.0.0.1", "10.0.0.3"]
    assert read(book) == ["10.0.0.1:5 (teachers)", "10.0.0.3:5 (teachers)"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["127.0.0.1"], ["host:5"]),
        (["::1", "127.0.0.1"], ["host:5"]),
        (["fd::1", "10.0.0.1", "fd::2", "10.0.0.2"], ["10.0.0.1:5 (host)", "10.0.0.2:5 (host)"]),
        (["fd::1", "fd::2"], ["[fd::1]:5 (host)", "[fd::2]:5 (host)"]),
    ],
)
def test_a_machine_in_both_families_counts_once(found, expected):
    assert read(AddressBook("host:5", Names(host=found))) == expected


def test_replicas_named_twice_are_one():
    names = Names(a=["10.0.0.1", "10.0.0.2"])
    assert len(read(AddressBook(["a:5", "dns:///a:5"], names))) == 2


def test_the_last_answer_holds_while_the_name_server_is_away():
    names = Names(a=["10.0.0.1", "10.0.0.2"], b=["10.0.0.3"])
    book = AddressBook("a:5,b:5", names)
    before = read(book)
    del names["a"]
    assert read(book) == before
    assert book.trouble == "cannot look up a:5: Name or service not known"
    names["a"] = ["10.0.0.9", "10.0.0.8"]
    assert read(book)[0].startswith("10.0.0.9") and book.trouble == ""


def test_one_unknown_name_does_not_hide_the_others():
    book = AddressBook("gone:5,10.0.0.1:5", Names())
    assert read(book) == ["10.0.0.1:5"]
    assert "gone:5" in book.trouble


def test_a_file_of_addresses_is_read_again(tmp_path: Path):
    file = tmp_path / "teachers"
    book = AddressBook(f"file:{file}", Names(pair=["10.0.0.3", "10.0.0.4"]))
    assert read(book) == [] and "No such file" in book.trouble
    file.write_text("# two racks\n10.0.0.1:5\n\npair:6  # the new one\n")
    assert read(book) == ["10.0.0.1:5", "10.0.0.3:6 (pair)", "10.0.0.4:6 (pair)"]
    assert book.may_change and book.trouble == ""
    file.write_text("10.0.0.1:5\n10.0.0.2\n")
    assert len(read(book)) == 3 and "'10.0.0.2' is no address" in book.trouble
    file.unlink()
    assert len(read(book)) == 3


def test_the_systems_resolver_knows_this_machine():
    assert "127.0.0.1" in asyncio.run(look_up("127.0.0.1"))
    with pytest.raises(OSError):
        asyncio.run(look_up("no-such-name.invalid"))
