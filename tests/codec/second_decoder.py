"""A second decoder of .nelbo archives, which follows docs/format.md in Python and numpy and uses nothing of nelbo.

It shows that the text suffices. JPEG XL files, images and the last tiles of blocks, are decoded by imagecodecs.

    python tests/codec/second_decoder.py ARCHIVE FROZEN_MODEL...     (models under xz are taken, too)
"""

import hashlib
import json
import lzma
import math
import re
import struct
import sys
import zlib
from bisect import bisect_right
from decimal import Decimal, localcontext
from itertools import accumulate, pairwise
from pathlib import Path

import imagecodecs
import numpy as np

BITS_BACK = 1
MODES = ("L", "RGB", "LA", "RGBA", "I;16")
TYPES = {"U8": "<u1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F64": "<f8"}


def check(is_right, problem):
    if not is_right:
        raise ValueError(problem)


def rounded(v, b):
    return (v + (1 << b >> 1)) >> b


def clamped(v, limit):
    return np.clip(v, -limit, limit)


def between(table, i, g, bits):
    return table[i] + ((table[i + 1] - table[i]) * g >> bits)


# The file
def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (crc & 1) * 0x82F63B78
    return crc ^ 0xFFFFFFFF


def unchecked(data, crc=None):
    body, crc = (data[:-4], struct.unpack("<I", data[-4:])[0]) if crc is None else (data, crc)
    check(crc32c(body) == crc, "a CRC32C is wrong")
    return body


def parts(data):
    n = struct.unpack_from("<I", data)[0]
    ends = list(accumulate(struct.unpack_from(f"<{n}I", data, 4), initial=4 * (n + 1)))
    check(ends[-1] == len(data), "parts do not fill their space")
    return [data[start:end] for start, end in pairwise(ends)]


class Archive:
    """Header, images (name, width, height, mode) and blocks (fields and payload)."""

    def __init__(self, data):
        *preamble, n = struct.unpack("<8sHHI", unchecked(data[:20]))
        check(preamble == [b"\x89NBO\r\n\x1a\n", 1, 0], "this is no archive of version 1")
        header, at = unchecked(data[20 : 24 + n]), 24 + n
        self.sha256, executor, bits, *shape, _, n_images = struct.unpack_from("<32sIBBHHdI", header)
        check((executor, bits) == (1, 24), "the archive is for another executor")
        _, _, gammas, self.plan, runs = parts(header[54:])
        self.shape, self.gammas = tuple(shape), struct.unpack(f"<{len(gammas) // 8}d", gammas)
        self.images, self.blocks = list(images(runs)), []
        check(len(self.images) == n_images, "the header has another number of images")
        while data[at : at + 4] == b"\x89nCh":
            fields = unchecked(data[at + 8 : at + 84], *struct.unpack_from("<I", data, at + 4))
            *block, n_bytes, crc = struct.unpack("<BxxxIQ16sQQQIIQI", fields)
            self.blocks.append((*block, unchecked(data[at + 84 : at + 84 + n_bytes], crc)))
            at += 84 + n_bytes
        tiles = accumulate((block[1] for block in self.blocks), initial=0)
        check([block[2] for block in self.blocks] == list(tiles)[:-1], "the blocks do not follow one another")
        places = b"".join(struct.pack("<IQ", block[1], 84 + len(block[-1])) for block in self.blocks)
        indices = [struct.pack("<4sII", b"\x89nIx", len(self.blocks), n) + places + data[:n] for n in (0, 24 + n)]
        check(unchecked(data[at:-20]) in indices, "the index does not fit")
        footer = *struct.unpack("<Q", unchecked(data[-20:-8])), data[-8:]
        check(footer == (len(data) - 20 - at, b"\x89NBOEND\n"), "the footer does not fit")


def images(data):
    at, name, size = 0, b"", (0, 0)

    def number():
        nonlocal at
        value = shift = 0
        while True:
            at, value, shift = at + 1, value | (data[at] & 127) << shift, shift + 7
            if data[at - 1] < 128:
                return value

    while at < len(data):
        n_shared, n_own = number(), number()
        name, at = name[:n_shared] + data[at : at + n_own], at + n_own
        count, code, at = number(), data[at], at + 1
        size = size if code & 128 else (number(), number())
        folder, slash, file = name.decode().rpartition("/")
        stem, dot, ending = file.rpartition(".") if "." in file else (file, "", "")
        found = re.fullmatch("(.*?)(?<![0-9])([0-9]{1,18})([^0-9]*)", stem, re.DOTALL)
        for i in range(count):
            up = found[1] + str(int(found[2]) + i).zfill(len(found[2])) + found[3] if found else stem
            yield folder + slash + up + dot + ending, *size, MODES[code & 127]


# The coder
def tables(sha256, *columns):
    found = [[round(value) for value in column] for column in columns]
    packed = b"".join(struct.pack(f"<{len(table)}I", *table) for table in found)
    check(hashlib.sha256(packed).hexdigest() == sha256, "this machine computes other tables")
    return found


CDF, EXP = tables(
    "12dce892bab45b11d1ccd650c64b7ce298bed155784d7283fd1f12674f2bca68",
    [0, *(2**29 * math.erfc((6 - i / 256) / math.sqrt(2)) for i in range(1, 3072)), 2**30],
    [2**30 * math.exp(-i / 128) for i in range(3073)],
)
LOG2, POW2 = tables(
    "7ebf6f9c6be4b517740ee3faccaaa8df28cf3e6c5b311b804de2fe038210408a",
    [2**16 * math.log2(1 + i / 256) for i in range(257)],
    [2 ** (30 + i / 256) for i in range(257)],
)


def cells(first, n, total, m, r):
    """Returns the starts of n cells of a Gaussian, given the first point and the mean."""
    check(2**14 <= r <= 2**32 and abs(m) < 2**46, "a Gaussian has no such mean or rate")
    edge = (first << 16) - 2**15 - m

    def start(j):
        if j <= 0 or j >= n:
            return 0 if j <= 0 else total if j == n else 2**24
        t = ((edge + (j << 16)) * r >> 16) + (6 << 24)
        mass = 0 if t <= 0 else 2**30 if t >= 12 << 24 else between(CDF, t >> 16, t & 0xFFFF, 16)
        return j + (mass * (total - n) >> 30)

    return start


def keystream(i):
    z = (i + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return (z ^ z >> 31) >> 32


class Message:
    """A message. A decoder only pops from head P and only pushes on head Q."""

    def __init__(self, payload, q, p, counter):
        self.words, self.q, self.p, self.counter = np.frombuffer(payload, "<u4").tolist(), q, p, counter

    def push(self, c, f):
        if self.q >= f << 40:
            self.counter = (self.counter - 1) % 2**64
            self.words.append(self.q % 2**32 ^ keystream(self.counter))
            self.q >>= 32
        self.q = (self.q // f << 24) + c + self.q % f

    def pop(self, start, n, b=24):
        """Pops one of the symbols 0 to n - 1, given the function of their starts."""
        u = self.p % 2**b
        symbol = bisect_right(range(1, n), u, key=start)
        c = start(symbol)
        self.p = (start(symbol + 1) - c) * (self.p >> b) + u - c
        if self.p < 2**32:
            check(self.words, "the stack is empty")
            self.p = self.p << 32 | self.words.pop()
        return symbol

    def uniform(self, b):
        return self.pop(lambda j: j, 2**b, b) if b > 0 else 0

    def seed(self):
        check((self.q >> 32, self.p, self.counter) == (1, 2**32, 1), "the message is not as it was seeded")
        return np.array([*self.words, self.q % 2**32 ^ keystream(0)], "<u4").tobytes()

    def pop_lattice(self, means, rates):
        points = []
        for m, r in zip(means.tolist(), rates.tolist(), strict=True):
            centre, reach = rounded(m, 16), -(-(6 << 24) // r)
            n = 2 * reach + 1
            k = self.pop(cells(centre - reach, n, 2**24 - 1, m, r), n + 1) - reach
            if k > reach:  # The escape.
                b, is_below = divmod(self.uniform(6), 2)
                k = reach + (1 << b) + (self.uniform(b - 16) << 16) + self.uniform(min(b, 16))
                k = -k if is_below else k
            points.append(centre + k)
        return np.array(points)

    def push_lattice(self, means, rate, points):
        reach = -(-(6 << 24) // rate)
        for m, k in zip(means.tolist()[::-1], points.tolist()[::-1], strict=True):
            first, n = rounded(m, 16) - reach, 2 * reach + 1
            check(first <= k < first + n, "a latent is outside the window of q")
            start = cells(first, n, 2**24, m, rate)
            self.push(start(k - first), start(k - first + 1) - start(k - first))

    def pop_grey_gaussian(self, m, r):
        return self.pop(cells(0, 256, 2**24, m, r), 256)

    def pop_grey_softmax(self, m, s):
        check(2**16 <= s <= 2**44, "a softmax has no such sharpness")
        v, c = np.arange(256), min(max(rounded(m, 16), 0), 255)
        excess = (v - c) * ((v + c << 16) - 2 * m)
        is_near = excess < (24 << 48) // s
        y = np.where(is_near, excess, 0) * s >> 26
        w = np.where(is_near, between(np.array(EXP), y >> 15, y & 0x7FFF, 15), 0)
        below = [0, *np.cumsum(w).tolist()]
        return self.pop(lambda v: v + below[v] * (2**24 - 256) // below[-1], 256)


class Frozen:
    def __init__(self, data):
        data = lzma.decompress(data) if data.startswith(b"\xfd7zXZ") else data
        start = 8 + struct.unpack_from("<Q", data)[0]
        entries = json.loads(data[8:start])
        metadata = entries.pop("__metadata__")
        self.tensors, digest = {}, hashlib.sha256(metadata["nelbo.frozen"].encode())
        for name, entry in sorted(entries.items()):
            packed = data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
            kind = np.dtype(TYPES[entry["dtype"]])
            digest.update(json.dumps([name, f"torch.{kind.name}", entry["shape"]]).encode() + packed)
            tensor = np.frombuffer(packed, kind).reshape(entry["shape"])
            self.tensors[name] = tensor.astype(np.int64) if kind.kind == "i" else tensor
        self.sha256, self.text = digest.digest(), json.loads(metadata["nelbo.frozen"])
        self.program, stated = self.text["program"], (metadata["sha256"], self.text["executor_version"])
        check((self.sha256.hex(), 1) == stated, "the frozen model is damaged, or for another executor")

    def silu(self, y):
        return np.where(y <= 16384, self.tensors["table.silu"][np.clip(y, -16384, 16384) + 16384], 4 * y)

    def linear(self, name, x, shift, limit):
        weight, multiplier, offset = (self.tensors[f"{name}.{part}"] for part in ("weight", "multiplier", "offset"))
        total = weight.reshape(len(weight), -1).astype(np.float64) @ x.astype(np.float64)  # Exact below 2^53.
        return clamped((multiplier * total.T.astype(np.int64) + offset).T >> shift, limit)

    def level(self, gamma):
        e, sine = self.program["embedding"], self.tensors["table.sine"]
        time = round(2**32 * ((gamma - e["low"]) / (e["high"] - e["low"])))
        phases = np.array([rounded(time * rate, 36) % 2**16 for rate in self.tensors["embedding.rates"].tolist()])
        x = np.concatenate([sine[phases], sine[(phases + 2**14) % 2**16]])
        for i in (0, 1):
            x = self.silu(self.linear(f"embedding.dense{i}", x, e["shifts"][i], e["limits"][i]))
        limits, shifts = e["condition_limits"], e["condition_shifts"]
        conditions = {int(p): self.linear(f"{p}.condition", x, shifts[p], limits[p]) for p in shifts}
        with localcontext() as context:
            context.prec = 50
            scales = [2**24 * (1 / (1 + Decimal(g).exp()).sqrt()) for g in (gamma, -gamma)]
            return conditions, *(max(1, int(scale.to_integral_value())) for scale in scales)

    def result(self, z, conditions):
        results, z = [], clamped(z, 2**22)
        for p, op in enumerate(self.program["operations"]):
            sources = [results[op[key]] for key in ("source", "left", "right") if key in op]
            rule = getattr(self, op["type"])
            results.append(rule(f"{p}", op, *(sources or [z]), *([conditions.get(p)] if op["type"] == "norm" else [])))
        return results[-1] + (rounded(z, 2) if self.program["adds_latent"] else 0)

    def add(self, _, op, left, right):
        return clamped(left + right, op["limit"])

    def concat(self, _, op, left, right):
        return np.concatenate([left, right])

    def unshuffle(self, _, op, x):
        f, (c, h, w) = op["factor"], x.shape
        return x.reshape(c, h // f, f, w // f, f).transpose(0, 2, 4, 1, 3).reshape(c * f * f, h // f, w // f)

    def shuffle(self, _, op, x):
        f, (c, h, w) = op["factor"], x.shape
        return x.reshape(c // f**2, f, f, h, w).transpose(0, 3, 1, 4, 2).reshape(c // f**2, h * f, w * f)

    def features(self, _, op, z):
        sine, shifts = self.tensors["table.sine"], [e - 3 for e in op["exponents"]]
        f = [channel << shift if shift >= 0 else channel >> -shift for channel in z for shift in shifts]
        return np.stack([*rounded(z, 4), *(sine[v % 2**16] for v in f), *(sine[(v + 2**14) % 2**16] for v in f)])

    def conv(self, p, op, x):
        border, stride, size = (op["padding"],) * 2, op["stride"], self.tensors[f"{p}.weight"].shape[2:]
        x = np.pad(rounded(x, op["in_shift"]), ((0, 0), border, border))
        places = np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))[:, ::stride, ::stride]
        columns = places.transpose(0, 3, 4, 1, 2).reshape(-1, places[0, ..., 0, 0].size)
        return self.linear(p, columns, op["shift"], op["limit"]).reshape(-1, *places.shape[1:3])

    def norm(self, p, op, x, condition):
        gain, offset, shift = self.tensors[f"{p}.gain"], self.tensors[f"{p}.offset"], op["shift"]
        x = x + condition[:, None, None] if op["condition"] == "before" else x
        groups = x.reshape(op["groups"], -1)
        n, total, squares = groups.shape[1], groups.sum(1), (groups * groups).sum(1)
        near = total // n
        std = np.sqrt((squares - near * (2 * total - n * near)) / n + op["eps"] * 2**24)
        std, mean = (np.repeat(value, len(x) // op["groups"]) for value in (std, 16 * total // n))
        scale, up = np.split(condition, 2) if op["condition"] == "modulate" else (0, 0)
        gain, offset = gain * (2**12 + scale), offset * (2**12 + scale) + (up << 14)
        t = shift + (10 if op["silu"] else 12) - 26
        a = np.floor(gain / std * 2**t).astype(np.int64)
        b = (offset << t) - (a * mean >> 4) + (1 << shift - 1)
        y = np.clip((a[:, None, None] * x + b[:, None, None]) >> shift, op["low"], op["high"])
        return self.silu(y) if op["silu"] else y

    def attend(self, _, op, x):
        queries, keys, values = x.reshape(3, op["heads"], -1, x.shape[1] * x.shape[2])
        logits = queries.transpose(0, 2, 1) @ keys
        below = (logits.max(2, keepdims=True) - logits) * op["multiplier"] >> op["shift"]
        weights = self.tensors["table.exp"][np.minimum(below, 16384)].transpose(0, 2, 1)
        total = weights.sum(1, keepdims=True)
        return ((2 * (values @ weights) + total) // (2 * total)).reshape(-1, *x.shape[1:])

    def x_hat(self, z, gamma):
        (conditions, alpha, sigma), z = self.level(gamma), clamped(z, 2**22)
        result = self.result(z, conditions)
        if self.program["prediction"] == "v":
            return rounded(4 * alpha * z - 16 * sigma * result, 24)
        return np.floor((2**26 * z - 16 * sigma * result) / alpha + 1 / 2).astype(np.int64)


def cosines(n):
    angles = [[(2 * i + 1) * k % (4 * n) * math.pi / (2 * n) for i in range(n)] for k in range(n)]
    scales = [2**26 * math.sqrt((2 if k else 1) / n) for k in range(n)]
    return np.array([[round(s * math.cos(v)) for v in row] for s, row in zip(scales, angles, strict=True)])


class Chain:
    """Decodes tiles by the plan's integers and the frozen model."""

    def __init__(self, archive, frozen):
        self.frozen, self.gammas, self.shape, plan = frozen, archive.gammas, archive.shape, archive.plan[1:]
        check(tuple(frozen.program["image_shape"]) == self.shape, "the model's images have another shape")
        if archive.plan[0] == 1:
            name = f"plan.{int(plan)}"
            check(tuple(frozen.tensors[f"{name}.gammas"].tolist()) == self.gammas, "the plan has other gammas")
            plan = frozen.tensors[name].tobytes()[24:]
        *packed, ratios = parts(zlib.decompress(plan))
        arrays = [np.frombuffer(part, "<i8") for part in packed]
        numbers, self.steps, self.q_rates, self.up, self.down, self.down_x, rates, *rest = arrays
        self.first, self.exit, self.kind, self.slope, self.sharpness, self.rounding, bh, bw = numbers.tolist()
        (c, h, w), (colours, offsets, weights, scales) = self.shape, rest
        self.offsets, self.weights = offsets.reshape(-1, 2).tolist(), weights.reshape(c, -1).tolist()
        self.scales, self.axes = scales.reshape(-1, 4).tolist(), []
        self.p_rates = np.tile(rates[:, None, None, None], (1, c, h, w))
        if bh:
            self.axes, self.split = [colours.reshape(c, c), cosines(bh), cosines(bw)], (c, h // bh, bh, w // bw, bw)
            g = np.tile(np.frombuffer(ratios, "u1").astype(np.int64).reshape(-1, c, bh, bw), (h // bh, w // bw))
            rates = self.p_rates[:-1] * np.array(POW2)[4 * (-g % 64)] >> 30 + -(-g // 64)
            self.p_rates[:-1] = np.maximum(2**14, rates)

    def transformed(self, x, axes):
        """Returns B of an image, or B' for the transposes of the axes."""
        for axis, matrix in zip((0, 2, 4), axes, strict=False):
            x = clamped(x.reshape(self.split), 2**31)
            x = np.moveaxis(rounded(np.tensordot(matrix, x, (1, axis)), 26), 0, axis)
        return x.reshape(self.shape)

    def image(self, i, k):
        z = rounded(clamped(k, 2**22) * self.steps[i], 20).reshape(self.shape)
        return self.transformed(z, [axis.T for axis in self.axes])

    def prediction(self, i, k):
        return self.frozen.x_hat(rounded(self.image(i, k), 2), self.gammas[i])

    def pop(self, message):
        """Pops a tile as rows, columns and channels."""
        k = message.pop_lattice(np.zeros(math.prod(self.shape), np.int64), self.p_rates[-1].ravel())
        for i in reversed(range(len(self.gammas) - 1)):
            x_hat = self.transformed(self.prediction(i + 1, k), self.axes).ravel()
            mean = rounded(self.down[i] * clamped(k, 2**22) + self.down_x[i] * x_hat, 16)
            above, k = k, message.pop_lattice(mean, self.p_rates[i].ravel())
            message.push_lattice(rounded(self.up[i] * clamped(k, 2**22), 16), int(self.q_rates[i + 1]), above)
        tile = self.pop_by_prediction(message, k) if self.exit else self.pop_by_latent(message, k)
        x = self.transformed((2 * tile.transpose(2, 0, 1) - 255) << 12, self.axes).ravel()
        message.push_lattice(rounded(self.first * x, 16), int(self.q_rates[0]), k)
        return tile.astype(np.uint8)

    def pop_by_latent(self, message, k):
        pop = message.pop_grey_gaussian if self.kind else message.pop_grey_softmax
        means = clamped((self.image(0, k).transpose(1, 2, 0) * self.slope >> 20) + 2**23 - 2**15, 2**26)
        return np.array([pop(m, self.sharpness) for m in means.ravel().tolist()]).reshape(means.shape)

    def pop_by_prediction(self, message, k):
        p = clamped(self.prediction(0, k).transpose(1, 2, 0) + 2**20 - 2**12, 2**23)
        h, w, c = p.shape
        wide = np.pad(p, ((1, 1), (1, 1), (0, 0)), "edge")  # Beyond the edge, the difference is 0.
        others = wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]
        slopes, p = (np.sum([(other - p) ** 2 for other in others], 0) + (4 << 22)).tolist(), p.tolist()
        residuals = [[[0] * c for _ in range(w + 4)] for _ in range(h + 2)]  # With a border of two.
        tile = np.zeros((h, w, c), np.int64)
        for y, x, j in np.ndindex(h, w, c):
            own = residuals[y + 2][x + 2]
            known = [r for dy, dx in self.offsets for r in residuals[y + 2 + dy][x + 2 + dx]]
            s = sum(a * b for a, b in zip(self.weights[j], known + own[:j], strict=False)) >> 13
            mean = min(max(8 * p[y][x][j] + s, -(2**26)), 2**26)
            log = self.scales[j][0] + self.scales[j][3] * log2(slopes[y][x][j])
            if self.offsets:
                log += self.scales[j][1] * log2(sum(r * r for r in known) + (len(known) << 22))
                log += self.scales[j][2] * log2(sum(r * r for r in own[:j]) + (j << 22)) if j else 0
            variance = pow2(min(max(log, 0), 46 << 32))
            rate = int(2**37 / math.sqrt(max(variance - self.rounding, 2**16)))
            tile[y, x, j] = v = message.pop_grey_gaussian(mean, rate)
            own[j] = (v << 13) - p[y][x][j]
        return tile


def log2(v):
    e = v.bit_length() - 1
    digits = (v << 24 >> e) - 2**24
    return (e << 16) + between(LOG2, digits >> 16, digits & 0xFFFF, 16)


def pow2(y):
    e, p = y >> 32, between(POW2, y >> 24 & 0xFF, y >> 8 & 0xFFFF, 16)
    return p << e - 30 if e >= 30 else p >> 30 - e


def decoded(archive, models):
    """Yields each block's kind and its tiles, or its images if it is JPEG XL, once the pixel hash is checked."""
    by_sha256 = {model.sha256: model for model in models}
    for kind, n_tiles, _, pixel_hash, q, p, counter, n_seed_tiles, n_seed, payload in archive.blocks:
        pixels, files = [], payload
        if kind == BITS_BACK:
            chain, message = Chain(archive, by_sha256[archive.sha256]), Message(payload, q, p, counter)
            pixels = [chain.pop(message) for _ in range(n_tiles - n_seed_tiles)]
            seed = message.seed()
            check(n_seed <= len(seed) < n_seed + 4 and not any(seed[n_seed:]), "the seed has another length")
            files = seed[:n_seed]
        pixels += [imagecodecs.jpegxl_decode(file) for file in parts(files)]
        packed = b"".join(each.astype(each.dtype.newbyteorder("<")).tobytes() for each in pixels)
        check(hashlib.blake2b(packed, digest_size=16).digest() == pixel_hash, "a block has other pixels")
        yield kind, pixels


if __name__ == "__main__":
    archive, *models = (Path(path).read_bytes() for path in sys.argv[1:])
    for kind, pixels in decoded(Archive(archive), [Frozen(model) for model in models]):
        print(len(pixels), "tiles, bits-back" if kind == BITS_BACK else "images, JPEG XL")
