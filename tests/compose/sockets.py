"""What a container listens on, and what those sockets tell a caller without a token."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from tests.compose.stack import docker

# States of sockets as the kernel writes them.
LISTENS, UNCONNECTED = "0A", "07"
# As the kernel writes 127.0.0.0/8, ::1 and 127.0.0.0/8 in IPv6.
LOOPBACK = ("7F", "00000000000000000000000001000000", "0000000000000000FFFF0000")


@dataclass(frozen=True, order=True)
class Socket:
    """A port that takes connections from other machines, and the user id of who opened it."""

    port: int
    user: int


def listening(container: str) -> set[Socket]:
    """TCP sockets of a container that listen on more than its loopback."""
    return _open(container, "tcp", LISTENS)


def listening_udp(container: str) -> set[Socket]:
    """The same of UDP: sockets that take datagrams from anybody, not those with one peer."""
    return _open(container, "udp", UNCONNECTED)


def _open(container: str, protocol: str, state: str) -> set[Socket]:
    tables = docker("exec", container, "cat", f"/proc/net/{protocol}", f"/proc/net/{protocol}6")
    rows = [line.split() for line in tables.splitlines() if ":" in line.split()[0]]
    found = [(row[1].split(":"), int(row[7])) for row in rows if row[3] == state]
    return {Socket(int(port, 16), user) for (host, port), user in found if not is_loopback(host)}


def is_loopback(host: str) -> bool:
    """Of an address in hexadecimal, four little-endian bytes at a time."""
    v4, v6, mapped = LOOPBACK
    if len(host) == 8:
        return host.endswith(v4)
    return host == v6 or (host.startswith(mapped) and host.endswith(v4))


# Runs in a container that has gRPC; arguments are "host:port". Per address it prints the status of
# plain HTTP (null: none there; "numbers": text for Prometheus), and the codes of gRPC methods, one
# of each of Ray's services.
PROBE = """
import http.client, json, sys
from concurrent.futures import ThreadPoolExecutor
import grpc

METHODS = {
    "gcs": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "kv": "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "raylet": "/ray.rpc.NodeManagerService/GetNodeStats",
    "worker": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "objects": "/ray.rpc.ObjectManagerService/Pull",
    "client": "/ray.rpc.RayletDriver/ClusterInfo",
    "reporter": "/ray.rpc.ReporterService/HealthCheck",
}

def over_http(address):
    found = {}
    for path in ("/", "/api/jobs/", "/api/job_agent/jobs/", "/nodes?view=summary", "/metrics"):
        try:
            connection = http.client.HTTPConnection(address, timeout=5)
            connection.request("GET", path)
            reply = connection.getresponse()
            numbers = reply.status == 200 and reply.read(7) == b"# HELP "
            found[path] = "numbers" if numbers else reply.status
        except (OSError, http.client.HTTPException):
            found[path] = None
    return found

def over_grpc(address):
    found = {}
    with grpc.insecure_channel(address) as channel:
        for name, method in METHODS.items():
            try:
                channel.unary_unary(method)(b"", timeout=5)
                found[name] = "OK"
            except grpc.RpcError as error:
                found[name] = error.code().name
    return found

def ask(address):
    return {"http": over_http(address), "grpc": over_grpc(address)}

with ThreadPoolExecutor(16) as pool:
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(ask, sys.argv[1:])))))
"""


def told(by: str, addresses: list[str]) -> dict[str, dict[str, dict[str, str | int | None]]]:
    """What ``addresses`` answer to calls without a token from the container ``by``."""
    done = subprocess.run(
        ["docker", "exec", "-i", by, "python", "-", *addresses],
        input=PROBE, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, dict[str, str | int | None]]] = json.loads(done.stdout)
    return found
