"""What tests of downloads share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http_files import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
