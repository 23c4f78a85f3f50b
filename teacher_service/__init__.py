"""The teacher service: a model behind gRPC, and the client that asks it.

``client``, ``requests``, ``codec``, ``retrying`` and ``errors`` are the client side: they import
neither torch nor anything else of ours but ``protos``.
"""
