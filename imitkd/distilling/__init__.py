"""Corpora that a teacher wrote: sources in, the same sources with the teacher's targets out."""
