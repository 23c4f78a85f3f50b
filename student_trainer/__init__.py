"""Imitation learning of a small student from a served teacher.

The driver hands shards of batches to rollout workers, which let the student write and have the
teacher score what was written; the learner assembles the scored shards in order and updates the
student. Everything is a plain class with its collaborators passed in; only ``ray_runtime`` knows
of Ray.
"""
