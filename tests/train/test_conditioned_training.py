"""Training tells the network of each image its own class and its own transformation, and of no other's."""

import json

import numpy as np
import pytest
import torch

from nelbo.cli.main import main
from nelbo.data import from_array
from nelbo.diffusion.bound import diffusion, to_bpd
from nelbo.diffusion.draws import training_draws
from nelbo.errors import NelboError
from nelbo.models.augmentation import augmented
from nelbo.models.vdm import VDM
from nelbo.runtime.processes import World
from nelbo.sampling import sample
from nelbo.train.batches import draw_codes, read_batch, read_labels
from nelbo.train.config import differences
from nelbo.train.loop import Intervals, Trainer
from nelbo.train.run import Run
from nelbo.train.run_folder import claim_folder

CONDITIONED = ("model.n_classes=4", 'model.augment=["rotation","channels"]', "model.net.dropout=0")
PLAIN = ("model.noise_schedule.learned=false",)


@pytest.fixture(scope="module")
def labelled(pixels):
    return from_array(pixels, labels=np.arange(64) % 4)


def test_labels_follow_their_images(pixels):
    data = from_array(pixels, labels=np.arange(64))
    for step in (0, 3, 9):
        read = read_batch(data, range(16), 16, 0, step, False)
        labels = read_labels(data, range(16), 16, 0, step)
        torch.testing.assert_close(read, data.read(labels.numpy()), rtol=0, atol=0)


def test_a_step_is_that_of_the_transformed_images_given_their_classes_and_codes(tiny, labelled, world):
    config = tiny(*CONDITIONED, *PLAIN)
    trainer = Trainer(config, labelled, world)
    with torch.no_grad():  # What it is told passes four layers that begin at zero.
        for parameter in trainer.model.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    key = (range(16), 16, config.seed, 0)
    codes, labels = draw_codes(config.model.augment, *key), read_labels(labelled, *key)
    images = augmented(read_batch(labelled, *key, flip=True), config.model.augment, codes)
    draws = training_draws(range(16), 16, (3, 8, 8), config.seed, 0)
    told, untold = (
        to_bpd(diffusion(trainer.model.given(*given), images, draws, None), 192).mean().item()
        for given in ((labels, codes), (labels.flip(0), torch.zeros_like(codes)))
    )
    assert trainer.run_step() == pytest.approx(told, rel=1e-6)
    assert untold != pytest.approx(told, rel=1e-6)


def test_two_halves_of_a_batch_are_the_whole(tiny, labelled, world):
    trainer = Trainer(tiny(*CONDITIONED), labelled, world)
    whole = trainer._read(range(16))
    halves = [trainer._read(World(rank, 2, world.device).part(16)) for rank in range(2)]
    for name, together, *parts in zip(("images", "labels", "codes"), whole, *halves, strict=True):
        torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "has no labels, which a model of 4 classes needs"),
        (np.arange(64) % 5, "labels run from 0 to 4, the model's classes from 0 to 3: .* model.n_classes=5"),
        (np.arange(64) % 4 - 1, "labels run from -1 to 2"),
    ],
)
def test_images_without_their_classes_are_refused_before_anything_is_written(
    labels, message, tiny, pixels, labelled, tmp_path
):
    other = from_array(pixels, labels=labels)
    for data, test in ((other, None), (labelled, other)):
        with pytest.raises(NelboError, match=message):
            Run(tiny(*CONDITIONED), data, test, tmp_path / "run", Intervals()).go("cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("beside", [{}, {"start": "0123456789abcdef"}], ids=["training", "fine-tuning"])
def test_a_run_of_an_earlier_version_goes_on_and_a_changed_one_does_not(tiny, tmp_path, beside):
    """Fields that the earlier version did not have stand at their defaults."""
    identity = {**tiny().model_dump(mode="json"), **beside, "data": {"n_images": 48}}
    old = json.loads(json.dumps(identity))
    del old["model"]["n_classes"], old["model"]["augment"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    claim_folder(tmp_path, identity)
    with pytest.raises(NelboError, match=r"another run \(model\.n_classes: 0 -> 4\)"):
        claim_folder(tmp_path, {**identity, "model": {**identity["model"], "n_classes": 4}})
    assert differences(old, identity) == ["model.augment: null -> []", "model.n_classes: null -> 0"]


# From end to end


@pytest.mark.slow
def test_a_class_conditional_model_is_trained_measured_and_sampled(pixels, tmp_path, command, capsys):
    np.savez(tmp_path / "labelled.npz", images=pixels, labels=np.arange(64) % 4)
    np.savez(tmp_path / "plain.npz", images=pixels)
    arguments = command(tmp_path / "run", *CONDITIONED[:2], "flip=false", "gamma_sampling=adaptive", *PLAIN)
    arguments[arguments.index("--data") + 1] = str(tmp_path / "labelled.npz")
    main(arguments)
    model = str(tmp_path / "run" / "model")
    for verb in ((), ("--steps", "5")):
        main(["eval", model, "--data", str(tmp_path / "labelled.npz"), "--limit", "8", *verb])
    main(["sample", model, "--steps", "3", "--seeds", "0-3", "--classes", "1,3", "--out", str(tmp_path / "drawn")])
    assert (tmp_path / "drawn" / "grid.png").exists()
    capsys.readouterr()
    for wrong, message in (
        (["eval", model, "--data", str(tmp_path / "plain.npz")], "plain.npz has no labels"),
        (["sample", model, "--classes", "4", "--out", str(tmp_path / "no")], "from 0 to 3 of the model"),
        (["sample", "cifar10-small", "--classes", "1", "--out", str(tmp_path / "no")], "no classes"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_an_image_is_drawn_by_its_seed_and_class_whatever_is_drawn_beside_it(tiny):
    torch.manual_seed(0)
    model = VDM(tiny("model.n_classes=4").model)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    together = sample(model, 3, range(6), precision="float32", classes=[2, 0])
    alone = torch.cat([sample(model, 3, [k], precision="float32", classes=[[2, 0][k % 2]]) for k in range(6)])
    assert (together.int() - alone.int()).abs().max() <= 1
    assert not torch.equal(sample(model, 3, range(6), precision="float32"), together)
