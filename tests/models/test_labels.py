"""Labels go with a tensor of images as with a data set, whatever integers they are."""

import numpy as np
import pytest
import torch

import nelbo
from nelbo.errors import NelboError

SHAPE = (1, 4, 4)
IMAGES = torch.randint(256, (4, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
MODEL = nelbo.from_callable(
    lambda x, t, labels: x * (0.5 + 0.1 * labels[:, None, None, None]), [0.01, 0.1, 0.4, 0.8], SHAPE, n_classes=4
)
CLASSES = [3, 0, 2, 1]
TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
LABELS = [CLASSES, np.array(CLASSES, np.uint16), *(torch.tensor(CLASSES, dtype=dtype) for dtype in TYPES)]


@pytest.mark.parametrize("labels", LABELS, ids=[str(getattr(each, "dtype", "list")) for each in LABELS])
def test_labels_of_every_type_give_the_bound_of_the_data_set(labels):
    expected = nelbo.evaluate(MODEL, nelbo.from_array(IMAGES, labels=np.array(CLASSES)))
    assert nelbo.evaluate(MODEL, IMAGES, labels=labels) == expected
    other = nelbo.evaluate(MODEL, IMAGES, labels=CLASSES[::-1])
    assert other.bpd != expected.bpd
    table = nelbo.error_table(MODEL, IMAGES, labels=labels)
    assert torch.equal(table.error, nelbo.error_table(MODEL, nelbo.from_array(IMAGES, labels=CLASSES)).error)
    if isinstance(labels, torch.Tensor):
        one, same = (MODEL.bound(IMAGES, labels=each).total for each in (labels, torch.tensor(CLASSES)))
        assert torch.equal(one, same)


WRONG = {
    "none": (None, "has no labels.*pass labels="),
    "too few": ([1, 2], r"labels of type int64 and shape \(2,\): expected 4 integers"),
    "floats": (np.ones(4), "labels of type float64"),
    "beyond": ([0, 1, 2, 4], "from 0 to 3 of the model, got 0 to 4"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_do_not_fit_are_refused_in_one_line(name):
    labels, says = WRONG[name]
    with pytest.raises(NelboError, match=says) as caught:
        nelbo.evaluate(MODEL, IMAGES, labels=labels)
    assert len(str(caught.value).splitlines()) == 1


def test_a_data_set_has_its_own():
    with pytest.raises(NelboError, match="is a data set with labels of its own"):
        nelbo.evaluate(MODEL, nelbo.from_array(IMAGES, labels=CLASSES), labels=CLASSES)
