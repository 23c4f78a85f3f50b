"""``python -m teacher_service MODEL_DIR``: serve where Ray is not installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Parse the command line and serve.

    Exit status: 0 after a drain, 2 after one line for faults a user can mend, 130 where Ctrl-C came
    before the server could drain.
    """
    try:
        import typer

        from seq2seq.errors import UserError
        from teacher_service.command import serve
        from teacher_service.errors import TeacherSecretError

        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(serve)
        try:
            app(prog_name="python -m teacher_service")
        except (UserError, TeacherSecretError, PermissionError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
