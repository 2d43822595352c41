"""Checkpoints of guided-diffusion: what the authors' network computes, retyped here from its published code."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

import nelbo
from nelbo.cli.main import main
from nelbo.errors import NelboError
from nelbo.interop.ddpm import DDPM
from nelbo.interop.guided_diffusion import GuidedGiven, import_guided_diffusion


class Sequence(nn.Sequential):
    def forward(self, x, emb):  # pyright: ignore[reportIncompatibleMethodOverride]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


def upsample(x):
    return interpolate(x, scale_factor=2, mode="nearest")


def downsample(x):
    return avg_pool2d(x, 2)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(upsample(x))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class ResBlock(nn.Module):
    def __init__(self, channels, emb_channels, out_channels, use_scale_shift_norm, up=False, down=False):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.update = upsample if up else downsample if down else None
        self.use_scale_shift_norm = use_scale_shift_norm
        n = 2 * out_channels if use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, n))
        conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out_channels), nn.SiLU(), nn.Dropout(0.1), conv)
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, emb):
        if self.update is not None:
            in_rest, in_conv = self.in_layers[:-1], self.in_layers[-1]
            h = self.update(in_rest(x))
            x = self.update(x)
            h = in_conv(h)
        else:
            h = self.in_layers(x)
        emb_out = self.emb_layers(emb)[..., None, None]
        if self.use_scale_shift_norm:
            out_norm, out_rest = self.out_layers[0], self.out_layers[1:]
            scale, shift = torch.chunk(emb_out, 2, dim=1)
            h = out_rest(out_norm(h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb_out)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    def __init__(self, channels, num_heads, num_head_channels, use_new_attention_order):
        super().__init__()
        self.num_heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, channels * 3, 1)
        self.new = use_new_attention_order
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def attention(self, qkv):
        bs, width, length = qkv.shape
        ch = width // (3 * self.num_heads)
        scale = 1 / math.sqrt(math.sqrt(ch))
        if self.new:
            q, k, v = (part.reshape(bs * self.num_heads, ch, length) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(bs * self.num_heads, ch * 3, length).split(ch, dim=1)
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        return torch.einsum("bts,bcs->bct", weight, v).reshape(bs, -1, length)

    def forward(self, x):
        b, c, *spatial = x.shape
        x = x.reshape(b, c, -1)
        return (x + self.proj_out(self.attention(self.qkv(self.norm(x))))).reshape(b, c, *spatial)


def timestep_embedding(timesteps, dim):
    half = dim // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(half) / half)
    args = timesteps[:, None].float() * freqs[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


class UNetModel(nn.Module):
    def __init__(
        self,
        in_channels=3,
        model_channels=32,
        out_channels=3,
        num_res_blocks=2,
        attention_resolutions=(),
        channel_mult=(1, 2),
        num_classes=None,
        num_heads=1,
        num_head_channels=-1,
        use_scale_shift_norm=False,
        resblock_updown=False,
        use_new_attention_order=False,
    ):
        super().__init__()
        self.model_channels = model_channels
        dim = model_channels * 4
        self.time_embed = nn.Sequential(nn.Linear(model_channels, dim), nn.SiLU(), nn.Linear(dim, dim))
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, dim)

        def attention(ch):
            return AttentionBlock(ch, num_heads, num_head_channels, use_new_attention_order)

        def block(ch, out, **how):
            return ResBlock(ch, dim, out, use_scale_shift_norm, **how)

        ch, ds = model_channels, 1
        chans = [ch]
        self.input_blocks = nn.ModuleList([Sequence(nn.Conv2d(in_channels, ch, 3, padding=1))])
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [block(ch, mult * model_channels)]
                ch = mult * model_channels
                if ds in attention_resolutions:
                    layers.append(attention(ch))
                self.input_blocks.append(Sequence(*layers))
                chans.append(ch)
            if level != len(channel_mult) - 1:
                self.input_blocks.append(Sequence(block(ch, ch, down=True) if resblock_updown else Downsample(ch)))
                chans.append(ch)
                ds *= 2
        self.middle_block = Sequence(block(ch, ch), attention(ch), block(ch, ch))
        self.output_blocks = nn.ModuleList([])
        for level, mult in list(enumerate(channel_mult))[::-1]:
            for i in range(num_res_blocks + 1):
                layers: list[nn.Module] = [block(ch + chans.pop(), mult * model_channels)]
                ch = mult * model_channels
                if ds in attention_resolutions:
                    layers.append(attention(ch))
                if level and i == num_res_blocks:
                    layers.append(block(ch, ch, up=True) if resblock_updown else Upsample(ch))
                    ds //= 2
                self.output_blocks.append(Sequence(*layers))
        conv = nn.Conv2d(model_channels, out_channels, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(32, ch), nn.SiLU(), conv)

    def forward(self, x, timesteps, y=None):
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        hs, h = [], x
        for module in self.input_blocks:
            h = module(h, emb)
            hs.append(h)
        h = self.middle_block(h, emb)
        for module in self.output_blocks:
            h = module(torch.cat([h, hs.pop()], dim=1), emb)
        return self.out(h)


NETS = {  # The network, and what its checkpoint does not tell.
    "plain": ({}, {}),
    "new order, heads by width": (
        {"attention_resolutions": (2,), "num_head_channels": 16, "use_new_attention_order": True},
        {"head_channels": 16, "new_attention_order": True},
    ),
    "blocks that resample": (
        {"resblock_updown": True, "channel_mult": (1, 1, 2), "attention_resolutions": (2, 4), "num_heads": 4},
        {"heads": 4},
    ),
    "as published": (
        {
            "resblock_updown": True,
            "use_scale_shift_norm": True,
            "out_channels": 6,
            "num_classes": 5,
            "attention_resolutions": (1, 2),
            "num_head_channels": 32,
            "num_res_blocks": 1,
        },
        {"head_channels": 32, "schedule": "cosine", "steps": 100},
    ),
}


def network(name):
    torch.manual_seed(0)
    net = UNetModel(**NETS[name][0]).eval()
    for parameter in net.parameters():  # Their zero-initialised layers would hide mistakes.
        nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_network_is_theirs(tmp_path, name):
    net = network(name)
    torch.save(net.state_dict(), tmp_path / "ema.pt")
    import_guided_diffusion(
        tmp_path / "ema.pt", tmp_path / "model", GuidedGiven(size=8, **{"heads": 1, **NETS[name][1]})
    )
    model = nelbo.load(tmp_path / "model")
    assert isinstance(model, DDPM)
    z, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 77])
    labels = torch.tensor([4, 1]) if model.n_classes else None
    torch.testing.assert_close(model.net(z, t, labels), net(z, t, labels), rtol=1e-4, atol=1e-4)
    assert model.reverse_kernel == ("learned-range" if name == "as published" else "forward")


def test_the_command_writes_a_folder_that_loads(tmp_path, capsys):
    torch.save(network("as published").state_dict(), tmp_path / "ema.pt")
    options = ["--size", "8", "--steps", "50", "--schedule", "cosine", "--head-channels", "32"]
    main(["import", "guided-diffusion", str(tmp_path / "ema.pt"), str(tmp_path / "model"), *options])
    assert capsys.readouterr().out == f"model: {tmp_path / 'model'}\n"
    model = nelbo.load(tmp_path / "model")
    assert (model.image_shape, model.n_classes, model.n_timesteps) == ((3, 8, 8), 5, 50)
    assert "openai/guided-diffusion" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(SystemExit):
        main(["import", "guided-diffusion", str(tmp_path / "ema.pt"), str(tmp_path / "other"), "--size", "9"])
    assert "the size must be a multiple" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_heads_that_do_not_divide_are_refused(tmp_path):
    torch.save(network("blocks that resample").state_dict(), tmp_path / "ema.pt")
    with pytest.raises(NelboError, match="the heads of 24 channels must divide the 32 channels"):
        import_guided_diffusion(tmp_path / "ema.pt", tmp_path / "model", GuidedGiven(size=8, head_channels=24))
