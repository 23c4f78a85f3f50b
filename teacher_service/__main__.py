"""``python -m teacher_service MODEL_DIR``: serve where Ray is not installed."""

from __future__ import annotations

import typer

from teacher_service.command import serve


def main() -> None:
    """Parse the command line and serve."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(serve)
    app(prog_name="python -m teacher_service")


if __name__ == "__main__":
    main()
