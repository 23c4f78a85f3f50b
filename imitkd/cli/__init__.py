"""The command line `imitkd`: one module a command, heavy imports inside the functions."""
