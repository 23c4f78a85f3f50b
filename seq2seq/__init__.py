"""Modelling shared by teacher and student: vocabulary, batches, models, decoding, checkpoints.

Depends on torch only. Nothing here knows of gRPC, Ray, teachers or students.

Dimension letters, used everywhere:
``B`` sentences, ``S`` source length, ``T`` target length, ``V`` vocabulary, ``K`` candidates,
``D`` model width, ``H`` heads, ``P`` packed positions (the real target positions of all
sentences laid end to end).
"""
