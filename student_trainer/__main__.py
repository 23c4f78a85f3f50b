"""``python -m student_trainer CONFIG``: train where the rest of imitkd is not installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Parse the command line, train.

    Exit status: 0 done, 130 interrupted, 2 a wrong command line or a fault the user can mend; one
    line on stderr says which.
    """
    parser = argparse.ArgumentParser(prog="python -m student_trainer", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML configuration")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--output", type=Path, required=True, help="run directory")
    parser.add_argument("--runtime", choices=["ray", "inline"])
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    arguments = parser.parse_args()

    from rich.console import Console

    from seq2seq.errors import UserError
    from student_trainer.config import load_config
    from student_trainer.training import interrupted, train
    from teacher_service.errors import TeacherError

    overrides = list(arguments.overrides)
    if arguments.runtime:
        overrides.append(f"runtime={arguments.runtime}")
    try:
        config = load_config(arguments.config, overrides)
        train(config, arguments.output, resume=arguments.resume, console=Console())
    except (UserError, TeacherError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted(arguments.output), file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
