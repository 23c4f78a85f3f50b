"""`imitkd report`."""

import typer

app = typer.Typer()
