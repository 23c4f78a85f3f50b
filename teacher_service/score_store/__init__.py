"""Scores on disk: what a teacher said about fixed pairs, for training with no teacher running.

A store is a directory::

    store.json               whose scores these are, and in which form (:mod:`.form`)
    tokenizer/               the teacher's, so that a student can be built from a store alone
    00000.records            the tensors of one pair after another, exactly as they travel
    00000.index              48 bytes a pair: content key, place, positions, checksum
    00001.records ...        every writer begins files of its own and never touches older ones

Records are found by the key of :mod:`teacher_service.content_key`. A pair counts once its index
entry is there, which is written after its record is on disk; so whatever ends a writer, what it
wrote before stays usable, and a torn end of either file is passed over. No torch, no gRPC.
"""
