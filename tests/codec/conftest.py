"""What the codec's tests share: the tables, one case of each codec, a small archive and its parts."""

import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO

import google_crc32c
import numpy as np
import pytest
import torch

from nelbo.basis import Basis
from nelbo.codec import reading
from nelbo.codec.archive import Codec as ImageCodec
from nelbo.codec.codecs import CODECS, Codec
from nelbo.codec.container import read_chain_at, read_places
from nelbo.codec.layout import Source
from nelbo.codec.members import Entry
from nelbo.codec.records import Kind
from nelbo.codec.tables import (
    Tables,
    build_tables,
    cumulative_integers,
    mean_integers,
    rate_integers,
    sharpness_integers,
)
from nelbo.codec.tiles import pixel_shape
from nelbo.errors import NelboError
from nelbo.exit import NEIGHBOURS, Exit
from nelbo.fingerprint import fingerprint
from nelbo.model import VDM
from nelbo.model_config import ModelConfig, UNetMultiscaleConfig
from nelbo.time_schedule.schedule import TimeSchedule


@pytest.fixture(scope="session")
def tables() -> Tables:
    return build_tables()


@pytest.fixture(scope="session")
def codec_case(tables):
    """Makes a codec of the table, by its name, with n symbols' random parameters of the widest ranges."""

    def case(name: str, n: int, seed: int) -> Codec:
        rng = np.random.default_rng((seed, n))
        grey_means = mean_integers(rng.uniform(-40, 300, n))
        stds = np.exp2(rng.uniform(-6, 6, n))
        return {
            "uniform": lambda: CODECS[name](rng.integers(0, 25, n)),
            "categorical": lambda: CODECS[name](
                cumulative_integers(rng.dirichlet(np.full(40, 0.1), 7)), rng.integers(0, 7, n)
            ),
            "gaussian": lambda: CODECS[name](tables, mean_integers(rng.normal(0, 1e4, n)), rate_integers(stds)),
            "grey_gaussian": lambda: CODECS[name](tables, grey_means, rate_integers(stds)),
            "grey_softmax": lambda: CODECS[name](tables, grey_means, sharpness_integers(stds)),
        }[name]()

    return case


@pytest.fixture(scope="session")
def small_model():
    """A small network with weights that do something."""
    config = ModelConfig(
        image_shape=(3, 8, 8),
        net=UNetMultiscaleConfig(
            channels=(8, 16), n_blocks_down=(1, 1), n_blocks_up=(1, 1), heads=(0, 2), n_cond=16, fourier=(7, 8)
        ),
        prediction="v",
    )
    torch.manual_seed(0)
    model = VDM(config).eval()
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter += 0.2 / max(1, parameter[0].numel()) ** 0.5 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="session")
def smooth_images():
    """Makes images that are neither flat nor white: ``smooth_images(n, seed=0, shape=(3, 8, 8))``."""

    def make(n: int, seed: int = 0, shape: tuple[int, int, int] = (3, 8, 8)):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand((n, shape[0], 2, 2), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")
        return ((0.9 * smooth + 0.1 * torch.rand((n, *shape), generator=generator)) * 255).to(torch.uint8)

    return make


@pytest.fixture(scope="session")
def small_frozen(small_model, smooth_images):
    from nelbo.codec.exact.freeze import freeze

    return freeze(small_model, smooth_images(4), max_cost_bpd=1.0)


@pytest.fixture(scope="session")
def schedule_of(small_model):
    """Makes a schedule of some levels: ``schedule_of(kernel, exit, gammas)``."""

    def make(kernel: str, leave: str, gammas=(-13.3, -9.0, -5.0, -1.0, 5.0), scale=-4.0) -> TimeSchedule:
        n, rng = len(gammas) - 1, np.random.default_rng(len(gammas))
        basis, spectra, squares = None, None, None
        if kernel == "spectral":
            basis = Basis(torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3)))).Q, (4, 8))
            spectra = torch.from_numpy(rng.uniform(0.1, 0.5, (n, 3, 4, 8)))
        if kernel == "analytic":
            squares = torch.from_numpy(rng.uniform(0.01, 0.3, n))
        return TimeSchedule(
            gammas=torch.tensor(gammas, dtype=torch.float64),
            reverse=kernel,
            exit=None if leave == "decoder" else exit_of(leave, rng, scale),
            fingerprint=fingerprint(small_model),
            image_shape=small_model.image_shape,
            n_steps=n if leave == "decoder" else n + 1,
            timesteps=None,
            prediction=None,
            mean_squares=squares,
            spectra=spectra,
            basis=basis,
        )

    return make


def exit_of(kind: str, rng: np.random.Generator, scale: float) -> Exit:
    """Returns an exit with weights and scales that do something."""
    n_known = 3 * len(NEIGHBOURS[kind]) + 2
    scales = np.array([[scale, 0.2, 0.1, 0.2]] * 3)[:, : 4 if NEIGHBOURS[kind] else 1]
    weights = rng.normal(0, 0.2 / n_known**0.5, (3, n_known))
    return Exit(kind, torch.from_numpy(weights), torch.from_numpy(scales + rng.normal(0, 0.01, scales.shape)), 0.5)


# Archives taken apart


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


@dataclass
class Parts:
    """The records of an archive without their checksums; a chain is its fields and its payload."""

    preamble: bytes
    header: bytes
    chains: list[tuple[bytes, bytes]]
    index: bytes
    footer: bytes

    @classmethod
    def of(cls, data: bytes) -> "Parts":
        """Takes an archive apart."""
        _, places = read_places(BytesIO(data))
        n_header = struct.unpack_from("<I", data, 12)[0]
        chains = [data[place.offset : place.offset + place.n_bytes] for place in places]
        start = places[-1].offset + places[-1].n_bytes
        split = [(chain[8:84], chain[84:]) for chain in chains]
        return cls(data[:16], data[20 : 20 + n_header], split, data[start:-24], data[-20:-12])

    def sealed(self) -> bytes:
        """Returns the archive with true checksums; lengths are as the fields say."""
        chains = (b"\x89nCh" + _crc(fields) + fields + payload for fields, payload in self.chains)
        head = b"".join(record + _crc(record) for record in (self.preamble, self.header))
        tail = self.index + _crc(self.index) + self.footer + _crc(self.footer) + b"\x89NBOEND\n"
        return head + b"".join(chains) + tail

    def fitted(self) -> bytes:
        """Returns the archive with true checksums and true lengths, to reach what lies behind them."""
        chains = [(f[:64] + struct.pack("<Q", len(p)) + _crc(p), p) for f, p in self.chains]
        places = b"".join(f[4:8] + struct.pack("<Q", 84 + len(p)) for f, p in chains)
        index = struct.pack("<4sII", b"\x89nIx", len(chains), 0) + places
        preamble = self.preamble[:12] + struct.pack("<I", len(self.header))
        return Parts(preamble, self.header, chains, index, struct.pack("<Q", len(index) + 4)).sealed()


@pytest.fixture(scope="session")
def parts_of():
    """Takes an archive apart."""
    return Parts.of


@pytest.fixture(scope="session")
def archived():
    """The images of the small archive, by entry."""
    entries = [*(Entry(f"{i}.png", 8, 8, "RGB") for i in range(1, 6)), Entry("deep/x.png", 5, 3, "RGBA")]
    rng = np.random.default_rng(0)
    return {entry: rng.integers(0, 32, pixel_shape(entry), np.uint8) for entry in entries}


@pytest.fixture(scope="session")
def small_archive(small_model, small_frozen, schedule_of, archived):
    """Two bits-back chains, of three images and of two, and one of JPEG XL; 2 kB."""
    codec = ImageCodec(
        small_model, schedule_of("analytic", "causal", (0.5, 2.0), 0.0), small_frozen, "small", n_chain=3
    )
    stream, entries = BytesIO(), list(archived)
    with pytest.MonkeyPatch.context() as patch:  # JPEG XL beats an untrained network; here it counts for nothing.
        patch.setattr("nelbo.codec.choice.is_smaller", lambda chain, other: True)
        codec.write(stream, Source(entries, lambda i: archived[entries[i]]))
    data = stream.getvalue()
    header, places = read_places(BytesIO(data))
    kinds = [read_chain_at(BytesIO(data), header, place).kind for place in places]
    assert kinds == [Kind.BITS_BACK, Kind.BITS_BACK, Kind.JPEG_XL]
    return data


@pytest.fixture(scope="module")
def remembered():
    """Decodes each chain once for each header that decides what it decodes to: else the network takes an hour."""
    coders, known, plain = {}, {}, {}
    coder_of, decode_chains, plain_images = reading.coder_of, reading.decode_chains, reading._plain_images

    def coder_once(header, given=None):
        key = replace(header, entries=(Entry("x", 1, 1, "L"),), model_name="", kernel="")
        if key not in coders:
            coders[key] = coder_of(header, given)
        return coders[key]

    def decode_once(coder, chains, shape, progress):
        new = [chain for chain in chains if (coder, chain) not in known]
        known.update(zip(((coder, chain) for chain in new), decode_chains(coder, new, shape), strict=True))
        return [known[coder, chain] for chain in chains]

    def plain_once(chain, header):
        key = chain, tuple(header.entries[:10]), header.tile_shape
        if key not in plain:
            plain[key] = plain_images(chain, header)
        return plain[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "coder_of", coder_once)
        patch.setattr(reading, "decode_chains", decode_once)
        patch.setattr(reading, "_plain_images", plain_once)
        yield


@pytest.fixture
def decoded(small_frozen, archived, remembered, tmp_path, monkeypatch):
    """Decodes bytes in order, by the index and in recovery; returns how many images came, None after an error.

    Who forges checksums can name an image otherwise and cut it; then every tile is still one that was coded.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def is_tile(block):
        originals = (pixels[: len(block), : block.shape[1]] for pixels in archived.values())
        return any(np.array_equal(block, original) for original in originals)

    def is_right(entry, pixels, forged):
        if not forged:
            return entry in archived and np.array_equal(pixels, archived[entry])
        corners = ((y, x) for y in range(0, pixels.shape[0], 8) for x in range(0, pixels.shape[1], 8))
        return all(is_tile(pixels[y : y + 8, x : x + 8]) for y, x in corners)

    def count(opened, data, forged):
        n = 0
        with suppress(NelboError):
            for entry, pixels in opened(BytesIO(data), small_frozen)[1]:
                assert is_right(entry, pixels, forged), f"a wrong image: {entry}"
                n += 1
            return n
        return None

    def by_index(data):
        with suppress(NelboError):
            header, places = read_places(BytesIO(data))
            for place in places:
                read_chain_at(BytesIO(data), header, place)

    def outcome(data, forged=False, recover=True):
        by_index(data)
        recovered = count(reading.recover_archive, data, forged) if recover else None
        return count(reading.read_archive, data, forged), recovered

    return outcome
