"""`imitkd doctor`: what would go wrong with a training run, told before it begins (docs/doctor.md).

A check is one function that looks at an `Examination` and returns findings; `checks.py` lists them
in their order. What a check built (connection, vocabulary, data) is there for later ones.
"""
