"""Each name of a device is the device it stands for, or one line that says why there is none."""

import pytest
import torch

from nelbo.errors import NelboError
from nelbo.runtime.device import choose_device
from nelbo.runtime.processes import join_world


@pytest.fixture
def gpus(monkeypatch):
    """Has PyTorch see a number of CUDA devices."""

    def see(n):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)

    return see


@pytest.mark.parametrize("n", [1, 2, 8])
def test_every_index_below_the_number_of_devices_is_one_of_them(gpus, n):
    gpus(n)
    for name in ("auto", "cuda"):
        assert [choose_device(name, index) for index in range(n)] == [torch.device("cuda", i) for i in range(n)]
        for index in (n, n + 3):
            with pytest.raises(NelboError, match=rf"process {index} .* sees {n}: .*--nproc-per-node {n}\)") as caught:
                choose_device(name, index)
            assert len(str(caught.value).splitlines()) == 1
        assert choose_device("cpu", n) == torch.device("cpu")


def test_without_cuda_any_number_of_processes_share_the_cpu(gpus):
    gpus(0)
    assert choose_device("auto", 5) == torch.device("cpu")
    with pytest.raises(NelboError, match="sees no CUDA device"):
        choose_device("cuda")


def test_a_process_too_many_does_not_join_a_world(gpus, monkeypatch):
    gpus(1)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NelboError, match="no CUDA device of its own"), join_world("auto"):
        pass
