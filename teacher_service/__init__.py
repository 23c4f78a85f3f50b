"""The teacher service: a model behind gRPC, and the client that asks it.

``client``, ``async_client`` and what they import are the client side: neither torch nor anything
else of ours but ``protos``. Of these ``addresses``, ``replicas`` and ``retrying`` (whom to ask, and
what after a fault), ``requests``, ``replies``, ``codec`` and ``errors`` know no gRPC.
"""

import os

# Read when gRPC starts. Its handlers would print a line for every process that is started beside a
# call under way, and do nothing else; a forked child makes its own client (``loop_thread``).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
