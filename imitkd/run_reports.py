"""What `imitkd status` prints."""

from __future__ import annotations

from datetime import timedelta

from student_trainer.status import RunStatus


def status_lines(status: RunStatus) -> list[str]:
    """A few lines for people."""
    share = f"{status.step / status.steps:.0%}"
    lines = [f"{_state(status)}, step {status.step:,} of {status.steps:,} ({share})"]
    pace = []
    if status.sentences_per_s is not None:
        pace.append(f"{status.sentences_per_s:.0f} sentences/s")
    if status.eta_s is not None:
        pace.append(f"eta {_duration(status.eta_s)}")
    if status.silent_s is not None and status.state == "alive":
        pace.append(f"last word {_duration(status.silent_s)} ago")
    if pace:
        lines.append(", ".join(pace))
    if status.losses:
        lines.append("last losses " + " ".join(f"{loss:.3f}" for loss in status.losses))
    if status.validation is not None:
        scores = status.validation
        lines.append(
            f"validation at step {scores['step']:,}: BLEU {scores['bleu']:.2f}  chrF "
            f"{scores['chrf']:.2f}  loss {scores['loss']:.3f}"
        )
    if status.advice is not None:
        lines.append(status.advice)
    return lines


def _state(status: RunStatus) -> str:
    if status.state == "alive":
        return f"alive: {status.holder}"
    if status.state == "ended":
        return "ended"
    where = f"from step {status.checkpointed:,}" if status.checkpointed else "from the beginning"
    return f"stale: no process runs it; --resume goes on {where}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
