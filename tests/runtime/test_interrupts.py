"""What runs uninterrupted is done as a whole or not begun, whenever Ctrl-C falls, and the interruption is not lost."""

import inspect
import itertools
import signal
import sys
import threading

import pytest

from nelbo.runtime.atomic import uninterrupted


def work(log):
    with uninterrupted():
        log.append("begun")
        log.append("done")


def with_ctrl_c_before(line, log):
    """Does the work with a signal before the nth line that either function runs; returns whether there is one."""
    codes = {work.__code__, inspect.unwrap(uninterrupted).__code__}
    lines, sent = itertools.count(), []

    def trace(frame, event, _):
        if event == "line" and next(lines) == line:
            sent.append(line)
            signal.raise_signal(signal.SIGINT)
        return trace if frame.f_code in codes else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work(log)
    finally:
        sys.settrace(before)
    return bool(sent)


def test_ctrl_c_before_any_line_leaves_all_or_nothing():
    outcomes = []
    for line in itertools.count():
        log = []
        try:
            if not with_ctrl_c_before(line, log):
                break
        except KeyboardInterrupt:
            outcomes.append(log)
        else:
            pytest.fail(f"the interruption before line {line} was lost")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [] in outcomes
    assert all(log in ([], ["begun", "done"]) for log in outcomes)
    assert len(outcomes) > 8


def test_an_error_inside_is_not_hidden_and_the_handler_comes_back():
    with pytest.raises(ZeroDivisionError), uninterrupted():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_work_as_they_are():
    log = []
    thread = threading.Thread(target=work, args=(log,))
    thread.start()
    thread.join()
    assert log == ["begun", "done"]
