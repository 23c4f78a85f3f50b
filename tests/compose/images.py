"""What is in an image, and what its history tells."""

from __future__ import annotations

import json
import os
import re

from tests.compose.stack import docker

# Files that no image has any use for, wherever they lie; packages may have keys for their tests.
STRAY = (
    *(".git", ".env", ".netrc", ".git-credentials", ".pypirc", "ledger.jsonl"),
    *("id_rsa*", "id_ed25519*", "*.key", "tls*.pem", "ca.pem", "token", "ray-token"),
)
# A token as `prepare` makes it (and no digest: "file:...", "SHA256=..."), a password in an address,
# a key.
SECRET = re.compile(r"(?<![:\w])(?<!SHA256=)[0-9a-f]{64}\b|://[^/\s]*:[^/\s]*@|PRIVATE KEY")
KIND = """
import importlib.util as u, json, torch
print(json.dumps({"cuda": torch.version.cuda, "ray": u.find_spec("ray") is not None}))
"""


def image(target: str) -> str:
    """The name of the image that docker-compose.yml gives to a target of the Dockerfile."""
    return os.environ.get(f"{target.upper()}_IMAGE", f"imitkd-{target}")


def secrets_in_history(name: str) -> list[str]:
    """Of the commands that made an image, those that hold what looks like a secret."""
    lines = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", name).splitlines()
    assert len(lines) > 5, "no history; nothing was looked at"
    return [line for line in lines if SECRET.search(line)]


def stray_files(name: str) -> list[str]:
    """Files of an image that look like secrets, or like what a user's folders hold."""
    named = " -o ".join(f"-name '{pattern}'" for pattern in STRAY)
    search = (
        f"find / -xdev -path '*/site-packages/*' -prune -o -path /etc/ssl -prune -o "
        f"\\( -path '/secrets/*' -o {named} \\) -print; ls -A /srv/imitkd"
    )
    found = inside(name, "sh", "-c", search).split()
    assert found[-2:] == ["configs", "teachers"], found
    return found[:-2]


def kind(name: str) -> dict[str, object]:
    """Which torch an image has, and whether it has Ray."""
    found: dict[str, object] = json.loads(inside(name, "python", "-c", KIND))
    return found


def inside(name: str, program: str, *arguments: str) -> str:
    """What a program of the image prints in a container of its own, as root and without network."""
    options = ("--rm", "--network", "none", "--user", "0:0", "--entrypoint", program)
    return docker("run", *options, name, *arguments)
