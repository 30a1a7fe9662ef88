"""What a running job tells of itself: the same figures as words and as JSON, and none that flatters."""

from __future__ import annotations

import io
import json
import time

import pytest

from kltui.jobs import progress_report
from kltui.jobs.progress_report import Moment, Pace, ProgressReporter, Tally
from kltui.scoring.settings import Progress

SCORING = Moment("run@1", "score", 10, 40, 9_000, 12_000, 800.0, 2.5, 3_000_000_000)


def test_json_and_words_hold_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_report, "EVENT_EVERY_S", 0.0)
    monkeypatch.setattr(progress_report, "LINE_EVERY_S", 0.0)
    out, err = io.StringIO(), io.StringIO()
    tally = Tally(total=4, done=1, started=time.monotonic() - 35.0)
    fetching = Moment("run@2", "fetch", message="model.safetensors: 3 of 9 MB")
    ProgressReporter(True, out, err).moved([SCORING, fetching], tally)
    scored, fetched = (json.loads(line) for line in out.getvalue().splitlines())
    assert (scored["texts_done"], scored["tokens_done"], scored["tokens_total"]) == (10, 9_000, 12_000)
    assert (scored["tokens_per_s"], scored["texts_per_s"]) == (800.0, 2.5)
    assert scored["memory_bytes"] == 3_000_000_000 and scored["stage"] == "score"
    # one and three quarters of four are done after 35 s
    assert scored["eta_seconds"] == pytest.approx(45.0, abs=0.5)
    assert fetched["stage"] == "fetch" and fetched["message"] == "model.safetensors: 3 of 9 MB"
    words = err.getvalue()
    for figure in ("10/40 texts", "2.5 texts/s", "800 tokens/s", "3.0 GB", "45 s left", "1/4", "+1 more"):
        assert figure in words, figure


def test_a_lone_fetch_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_report, "LINE_EVERY_S", 0.0)
    err = io.StringIO()
    ProgressReporter(False, io.StringIO(), err).moved(
        [Moment("run@2", "fetch", message="3 of 9 MB")], Tally(total=4)
    )
    assert "run@2  fetch  3 of 9 MB" in err.getvalue()


def test_texts_are_weighed_by_their_tokens() -> None:
    """Batches begin with the longest texts: a quarter of the texts may be three quarters of the work."""
    assert SCORING.fraction == 0.75
    assert Moment("m", "score", 10, 40).fraction == 0.25
    assert Moment("m", "fetch").fraction == 0.0


def test_checkpoints_that_failed_at_once_do_not_set_the_pace() -> None:
    tally = Tally(total=102, done=1, failed=100, started=time.monotonic() - 60.0)
    assert tally.eta_seconds(0.0) == pytest.approx(60.0, rel=0.01)
    assert Tally(total=3, failed=2, started=time.monotonic() - 60.0).eta_seconds(0.0) is None


def test_rates_count_from_the_first_batch_to_the_last_one_heard_of() -> None:
    pace = Pace()
    pace.hear(Progress("load"), 100.0)
    assert pace.per_second(5) == 0.0
    pace.hear(Progress("score", 0, 40, 0, 12_000), 130.0)
    pace.hear(Progress("score", 10, 40, 9_000, 12_000), 140.0)
    assert pace.per_second(9_000) == 900.0 and pace.per_second(10) == 1.0
    pace.hear(Progress("load"), 150.0)  # the worker died, and another one begins anew
    assert pace.per_second(9_000) == 0.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_never_hides_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed could not show it again."""
    monkeypatch.setenv("TERM", "xterm-256color")
    err = Terminal()
    reporter = ProgressReporter(False, io.StringIO(), err)
    reporter.begin(Tally(total=4))
    reporter.moved([SCORING], Tally(total=4, done=1))
    reporter.end()
    assert "run@1" in err.getvalue() and "\x1b[?25" not in err.getvalue()
