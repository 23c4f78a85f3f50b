"""Studies: a teacher and many methods under the same conditions, and what their texts score.

::

    plan -> runner -> cell files (hypotheses, facts) -> scores -> results.json, table.md
"""
