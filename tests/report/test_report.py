"""A report is one page that stands alone, says what was measured, and adds up."""

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from nelbo.cli.main import main
from nelbo.data import from_array
from nelbo.evaluation import evaluate
from nelbo.models.config import ModelConfig, UNetMultiscaleConfig
from nelbo.models.folder import save
from nelbo.models.vdm import VDM
from nelbo.report.figures import figures
from nelbo.report.measure import Findings, measure, pixel_bits
from nelbo.report.page import page

NET = UNetMultiscaleConfig(channels=(8, 16), n_blocks_down=(1, 1), n_blocks_up=(1, 1), heads=(0, 0), n_cond=16)


@pytest.fixture(scope="module")
def images():
    smooth = np.random.default_rng(0).integers(0, 256, (40, 1, 1, 3)) + np.arange(8)[None, :, None, None]
    return from_array((smooth + np.zeros((40, 8, 8, 3))).clip(0, 255).astype(np.uint8), "smooth.npz")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VDM(ModelConfig(image_shape=(3, 8, 8), net=NET, prediction="v")).eval()


@pytest.fixture(scope="module", autouse=True)
def _small():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"N_LEVELS": 12, "TABLE_LEVELS": 24, "TABLE_IMAGES": 8, "SAMPLE_STEPS": 4}.items():
            patch.setattr(f"nelbo.report.measure.{name}", value)
        yield


@pytest.fixture(scope="module")
def found(model, images, tmp_path_factory):
    metrics = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    lines = [{"step": 1, "n_images": 8, "loss_bpd": 9.0}, {"step": 2, "n_images": 16, "loss_bpd": 7.0},
             {"step": 2, "n_images": 16, "test_bpd": 7.5, "test_standard_error": 0.1}]  # fmt: skip
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return measure(model, "<b>my & model</b>", images, metrics=metrics)


@pytest.fixture(scope="module")
def html(found):
    return page(found, figures(found))


def test_the_bits_of_pixels_add_up_to_the_diffusion_term(model, images):
    bits = pixel_bits(model, images, 96)
    assert bits.shape == (40, 8, 8)
    exact = evaluate(model, images, n_passes=16, precision="float32").diffusion
    assert bits.sum(dim=(1, 2)).mean().item() / 192 == pytest.approx(exact.bpd, abs=5 * exact.standard_error + 0.02)


def test_the_loss_at_each_level_adds_up_to_the_diffusion_term(found: Findings):
    area = torch.trapezoid(found.loss, found.gammas).item()
    assert area == pytest.approx(found.evaluation.diffusion.bpd, rel=0.2)


def test_the_page_says_what_was_measured(found, html):
    e = found.evaluation
    assert f"{e.bpd:.4f} ± {e.standard_error:.4f}" in html
    for estimate in e.terms.values():
        assert f"{estimate.bpd:.4f} ± {estimate.standard_error:.4f}" in html
    for item in (found.provenance["fingerprint"], found.provenance["data"]["sha256"], "40 images"):
        assert item in html
    assert all(f"{bpd:.2f}</td>" in html for bpd in found.curve.values())
    assert "<h2>Training</h2>" in html
    assert min(found.curve.values()) >= 0
    assert all(math.isfinite(bpd) for bpd in found.curve.values())


def test_the_page_stands_alone(html):
    references = re.findall(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']([^"']*)""", html)
    assert len(references) >= 8
    assert all(reference.startswith("data:") for reference in references)
    text = re.sub(r"data:[\w/+;=,-]*", "", html)
    assert not re.search(r"https?:|//|@import|url\(|<script|<link rel=\"style|<iframe", re.sub(r"</", "", text))


def test_a_name_is_text_and_never_markup(html):
    assert "<b>my" not in html
    assert "&lt;b&gt;my &amp; model&lt;/b&gt;" in html


def test_a_model_alone_has_no_training_curves(found):
    alone = Findings(**{**vars(found), "training": []})
    assert "<h2>Training</h2>" not in page(alone, figures(alone))


def test_the_command_reports_on_models_and_on_runs(model, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", images=images.read(range(40)).permute(0, 2, 3, 1).numpy())
    save(model, tmp_path / "run" / "model", "A model.")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "n_images": 8, "loss_bpd": 9.0}\n')
    main(["report", "run", "--data", "images.npz", "-o", "a.html", "--limit", "8"])
    assert capsys.readouterr().out.startswith("a.html: ")
    assert "<h2>Training</h2>" in (tmp_path / "a.html").read_text()
    refused = {"a.html exists": ["-o", "a.html"], "--limit is a number": ["-o", "b.html", "--limit", "1"]}
    for problem, words in refused.items():
        with pytest.raises(SystemExit) as caught:
            main(["report", "run/model", "--data", "images.npz", *words])
        assert caught.value.code == 1
        assert problem in capsys.readouterr().err


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(html, folder):
    """Returns what a browser says of a page, how large its picture is, and what it asks the network for."""
    folder.mkdir()
    (folder / "page.html").write_text(html, encoding="utf-8")
    files = (f"--user-data-dir={folder}", f"--log-net-log={folder / 'net'}", f"--screenshot={folder / 'page.png'}")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=900,3000")
    command = [str(CHROMIUM), *options, *files, (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    asked = re.findall(r'site=file://[^"]*","url":"(https?://[^"]*)"', (folder / "net").read_text())
    return done.stderr, (folder / "page.png").stat().st_size, set(asked)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_renders_it_without_errors_or_requests(html, tmp_path):
    said, n_bytes, asked = browse(html, tmp_path / "report")
    assert "CONSOLE" not in said
    assert n_bytes > 50_000  # An empty page has a tenth of that.
    assert asked == set()
    bad = html.replace("<body>", '<body><img src="http://example.invalid/x.png"><script>throw 1</script>')
    said, _, asked = browse(bad, tmp_path / "bad")  # What this test would see.
    assert "CONSOLE" in said
    assert asked == {"http://example.invalid/x.png"}
