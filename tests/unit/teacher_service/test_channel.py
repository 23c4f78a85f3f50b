"""Secrets from files, and what is said where they are not right; never what is in them."""

from __future__ import annotations

import pytest

from teacher_service.channel import Credentials
from teacher_service.errors import TeacherSecretError
from teacher_service.secret_files import read_token


def test_a_token_is_the_one_word_of_its_file(tmp_path):
    (tmp_path / "t").write_text("  open-sesame==\n")
    assert read_token(tmp_path / "t") == "open-sesame=="
    shown = Credentials.read(token_file=tmp_path / "t")
    assert shown.metadata == (("authorization", "Bearer open-sesame=="),)
    assert Credentials().metadata == ()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"hidden one\n", "more than one word"),
        (b"hidden\nsecond\n", "more than one word"),
        ("hiddé".encode(), "more than one word of ASCII"),
        (b"\xff\x00hidden", "more than one word of ASCII"),
    ],
)
def test_a_broken_token_is_one_clear_line_without_it(tmp_path, content, fault):
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(TeacherSecretError, match=fault) as caught:
        Credentials.read(token_file=path, where="teacher.")
    assert str(caught.value).startswith(f"teacher.token_file {path} ")
    assert "hidd" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["root_certificates", "client_certificate", "client_key"])
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(TeacherSecretError, match=f"cannot read {name} .*gone: No such file"):
        Credentials.read(**{name: tmp_path / "gone"})


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"client_key": b"k"}, "belong together"),
        ({"client_certificate": b"c", "root_certificates": b"r"}, "belong together"),
        ({"client_certificate": b"c", "client_key": b"k"}, "needs the root certificates"),
    ],
)
def test_a_part_without_the_part_it_needs(fields, fault):
    with pytest.raises(TeacherSecretError, match=fault):
        Credentials(**fields)


def test_no_secret_shows_when_printed():
    secrets = Credentials("sesame", b"roots", b"certificate", b"key")
    assert repr(secrets) == "Credentials()"


@pytest.mark.parametrize("token", ["open\nsesame", "open sesame", "sésame"])
def test_a_token_that_no_header_can_carry(token):
    with pytest.raises(TeacherSecretError, match="more than one word of ASCII") as caught:
        Credentials(token)
    assert "sesame" not in str(caught.value)


def test_certificates_that_are_none(tmp_path):
    (tmp_path / "text").write_text("hidden")
    with pytest.raises(TeacherSecretError, match=r"text are damaged.*; give PEM files") as caught:
        Credentials.read(root_certificates=tmp_path / "text")
    assert "hidden" not in str(caught.value)
