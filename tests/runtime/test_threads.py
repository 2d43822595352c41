"""Loops shared between threads: each item once, on the threads that PyTorch has, whatever is raised."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from nelbo.runtime import threads
from nelbo.runtime.threads import share


@pytest.fixture(params=["openmp", "pool"])
def way(request, monkeypatch):
    """OpenMP's threads where PyTorch has them, and the threads that stand in for them elsewhere."""
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("this PyTorch has no OpenMP of GNU")


@pytest.fixture
def n_threads():
    """Sets PyTorch's number of threads for a while."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("n_items", [0, 1, 2, 7, 64])
def test_every_item_is_worked_on_once(n_threads, n, n_items):
    n_threads(n)
    seen, idents = [], set()

    def work(start, stop):
        idents.add(threading.get_ident())
        seen.extend(range(start, stop))
        time.sleep(0.01)

    share(n_items, work)
    assert sorted(seen) == list(range(n_items))
    assert len(idents) == max(1, min(n, n_items))


@pytest.mark.usefixtures("way")
def test_what_is_raised_on_any_thread_is_raised_here(n_threads):
    n_threads(3)
    for bad in range(3):
        with pytest.raises(KeyError, match=str(bad)):
            share(3, lambda start, stop, bad=bad: {}[start] if start <= bad < stop else None)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts this process's threads as Linux shows them")
@pytest.mark.parametrize("n_items", [2, 3])
def test_pytorchs_threads_are_taken_and_left(n_threads, n_items):
    if threads._openmp() is None:
        pytest.skip("this PyTorch has no OpenMP of GNU")
    n_threads(3)
    torch.ones(1 << 20).exp()
    before = os.listdir("/proc/self/task")
    found = []
    share(n_items, lambda start, stop: (found.append(str(threading.get_native_id())), time.sleep(0.01)))
    assert sorted(os.listdir("/proc/self/task")) == sorted(before)
    assert len(set(found)) == n_items
    assert set(found) <= set(before)
