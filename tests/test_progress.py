import io
import sys
import time
from collections.abc import Iterator

import pytest

from pipeline import progress
from pipeline.progress import progress_bar, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _numbers(count: int) -> Iterator[int]:
    for number in range(count):
        time.sleep(0.02)
        yield number


def test_a_log_gets_plain_lines_with_amount_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_SEC", 0.1)
    assert list(progress_bar(_numbers(20), name="counting", unit="numbers", total=20)) == list(range(20))
    text = capsys.readouterr().err
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    # 0.4 s of work and a line every tenth of a second, fewer on a busy machine; the last says that all is done.
    assert 1 <= len(lines) <= 6
    assert lines[-1].startswith("counting: 100% 20/20 numbers [00:")
    assert "numbers/s" in lines[-1]


def test_a_log_has_no_line_of_what_ends_soon(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress_bar(_numbers(5), name="counting", unit="numbers", total=5))
    assert capsys.readouterr().err == ""


def test_a_bar_within_another_leaves_whole_lines_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_SEC", 0.01)
    with progress_bar(name="outer", unit="rounds", total=2) as bar:
        for _ in range(2):
            list(progress_bar(_numbers(3), name="inner", unit="numbers", total=3))
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(("inner: ", "outer: ")) for line in lines)
    assert lines[-1].startswith("outer: 100% 2/2 rounds")


def test_a_terminal_gets_one_line_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "TERMINAL_DELAY_SEC", 0.0)
    monkeypatch.setattr(progress, "TERMINAL_INTERVAL_SEC", 0.01)
    list(progress_bar(_numbers(10), name="counting", unit="numbers", total=10))
    text = terminal.getvalue()
    assert text.count("\r") >= 3
    assert text.count("\n") == 1
    assert "10/10" in text


def test_a_resumed_work_begins_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_SEC", 0.0)
    with progress_bar(name="train", unit="images", total=100, done=50) as bar:
        bar.update(10)
    assert capsys.readouterr().err.splitlines()[-1].startswith("train: 60% 60/100 images")


def test_a_hidden_bar_writes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_SEC", 0.0)
    list(progress_bar(_numbers(2), name="counting", unit="numbers", total=2, hidden=True))
    assert capsys.readouterr().err == ""


def test_a_wait_says_in_a_log_how_long_it_has_lasted_and_nothing_if_it_is_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with waiting("upload"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "LOG_INTERVAL_SEC", 0.05)
    with waiting("upload"):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 6
    assert set(lines) == {"upload: 0 s"}


def _fail_after(seconds: float) -> None:
    time.sleep(seconds)
    raise ValueError("broken")


def test_a_wait_leaves_nothing_on_a_terminal_and_no_colour_even_if_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "WAIT_DELAY_SEC", 0.01)
    monkeypatch.setattr(progress, "WAIT_INTERVAL_SEC", 0.01)
    with pytest.raises(ValueError, match="broken"), waiting("upload"):
        _fail_after(0.2)
    text = terminal.getvalue()
    assert text.startswith("\rupload: 0 s")
    assert text.endswith("\r           \r")
    assert "\x1b" not in text
    assert "\n" not in text
