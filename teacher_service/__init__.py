"""The teacher service: a model behind gRPC, and the client that asks it.

``client``, ``async_client`` and what they import are the client side: neither torch nor anything
else of ours but ``protos``. Of these ``addresses``, ``replicas`` and ``retrying`` (whom to ask, and
what after a fault), ``requests``, ``replies``, ``codec`` and ``errors`` know no gRPC.
"""
