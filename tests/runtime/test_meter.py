"""A long task says how far it is: every second on a terminal of any width, every minute elsewhere."""

import io
import os
import pty
import sys
import time

import pytest

from nelbo.runtime.meter import Meter, duration


class Clock:
    """A time that only goes on when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_a_line_says_how_many_how_fast_and_how_long(clock):
    meter = Meter(400, "image", stream=io.StringIO(), clock=clock)
    assert meter.line() == "0 of 400 images, after 0 s"
    clock.now += 10
    assert meter.line() == "0 of 400 images, after 10 s"  # It lives, though nothing is done yet.
    meter.advance(100)
    assert meter.line() == "100 of 400 images, 10 images/s, 30 s left"
    clock.now += 4
    assert meter.line() == "100 of 400 images, 10 images/s, 26 s left"
    meter.note("bpd 3.5")
    meter.advance(300)
    assert meter.line().endswith("after 14 s, bpd 3.5")


@pytest.mark.parametrize(("step", "n", "left"), [(1.0, 2, 50.0), (300.0, 1, 29700.0)])
def test_the_time_left_is_right_for_an_even_task_however_slow(clock, step, n, left):
    meter = Meter(200, "call", stream=io.StringIO(), clock=clock)
    for _ in range(100 // n):
        clock.now += step
        meter.advance(n)
    assert meter.seconds_left() == pytest.approx(left, rel=0.02)


def test_the_speed_follows_the_last_minute(clock):
    meter = Meter(10_000, "tile", stream=io.StringIO(), clock=clock)
    for speed in (1, 20):
        for _ in range(120):
            clock.now += 1
            meter.advance(speed)
    assert meter.speed() == pytest.approx(20)


def test_what_was_done_before_does_not_count_as_speed(clock):
    meter = Meter(1000, "image", initial=900, stream=io.StringIO(), clock=clock)
    clock.now += 10
    meter.advance(10)
    assert meter.seconds_left() == pytest.approx(90)


def test_elsewhere_than_on_a_terminal_there_are_whole_lines_and_none_at_once(clock):
    stream, log = io.StringIO(), []
    with Meter(10, "call", stream=stream, also=log.append, clock=clock) as meter:
        clock.now += 5
        meter.advance(5)
        assert stream.getvalue() == ""
        meter.tick()
    assert stream.getvalue() == "5 of 10 calls, 1 calls/s, 5 s left\n"
    assert log == ["5 of 10 calls, 1 calls/s, 5 s left"]


def test_a_terminal_is_redrawn_while_nothing_moves():
    stream = Terminal()
    with Meter(10, "call", stream=stream, seconds=0.01):
        deadline = time.monotonic() + 30
        while stream.getvalue().count("\r") < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert stream.getvalue().endswith("\n")
    assert all(len(line) == 79 for line in stream.getvalue().rstrip("\n").split("\r")[1:])


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize(("columns", "width"), [(0, 79), (40, 39), (200, 199)])
def test_a_bar_fits_a_terminal_of_any_width(columns, width):
    import fcntl
    import struct
    import termios

    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", columns and 24, columns, 0, 0))
    with os.fdopen(writer, "w") as stream, Meter(10, "image", stream=stream) as meter:
        meter.advance(5)
        meter.tick()
        shown = os.read(reader, 10_000).decode()
    os.close(reader)
    assert shown.startswith("\r 50% |######------| 5 of 10 images" if width > 60 else "\r 50% ")
    assert len(shown) == 1 + width


def test_where_there_is_no_room_the_note_stays(clock):
    stream = Terminal()
    meter = Meter(1_600_000, "image", stream=stream, clock=clock)
    clock.now += 10
    meter.advance(736)
    meter.note("step 92, bpd 8.123, grad 3.4, rate 0.004")
    meter.tick()
    shown = stream.getvalue().strip()
    assert shown == "0% step 92, bpd 8.123, grad 3.4, rate 0.004, 73.6 images/s, 6 h 2 min left"


def test_a_line_of_its_own_stands_above_the_bar():
    stream, log = Terminal(), []
    with Meter(10, "call", stream=stream, seconds=60.0, also=log.append) as meter:
        meter.tick()
        meter.say("held-out bound 3.5")
    shown = stream.getvalue().split("\r")
    assert shown[2].strip() == ""
    assert shown[3].startswith("held-out bound 3.5\n")
    assert shown[4].startswith("  0% |")
    assert log == ["held-out bound 3.5"]


def test_an_interrupted_task_says_where_it_stopped():
    stream = io.StringIO()
    meter = Meter(10, "image", stream=stream)
    meter.__enter__()
    meter.advance(3)
    meter.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stream.getvalue() == "stopped at 3 of 10 images\n"


def test_a_reader_that_has_left_does_not_end_the_task():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        meter = Meter(10, "image", stream=stream)
        meter.tick()
        meter.tick()
        assert meter.quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_quiet_says_nothing_but_counts():
    stream = Terminal()
    with Meter(10, "image", quiet=True, stream=stream) as meter:
        meter.advance(4)
        meter.say("something")
        meter.tick()
    assert (stream.getvalue(), meter.n) == ("", 4)


def test_durations_are_for_people():
    assert [duration(s) for s in (0.0, 59.6, 3599.0, 86399.0, 86400.0)] == [
        "0 s", "1 min 0 s", "59 min 59 s", "23 h 59 min", "1 d 0 h",
    ]  # fmt: skip
