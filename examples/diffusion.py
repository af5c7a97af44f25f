"""Teach a diffusion model a style that it has never drawn, from pairs of pictures and without a reference model.

A small U-Net from diffusers draws a bright square somewhere on a dark ground. People want it the other way round: dark
on bright. MaPO compares the denoising errors of a preferred and a rejected picture under one noise at one time step,
and fits the preferred one besides.

    pip install 'mmpo[worlds]'
    python examples/diffusion.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from transformers import TrainingArguments, set_seed

from mmpo import methods
from mmpo.batch import evidence
from mmpo.errors import UserError
from mmpo.run.loop import GradedTrainer
from mmpo.types import Datum, Evidence, Method, Reading, Tensors

SIZE = 8


# ---------------------------------------------------------------------------------------------- the world


@dataclass(frozen=True)
class Pictures:
    """K pictures [K, ...] that were compared, and what was said about them."""

    images: Tensor
    said: Datum


def pairs(n: int) -> list[Pictures]:
    """n pairs of a dark square on bright ground, which people prefer, and a bright one on dark ground."""
    found = []
    for number in range(n):
        picture = -torch.ones(1, SIZE, SIZE)
        top, left = torch.randint(SIZE - 3, (2,)).tolist()
        picture[:, top : top + 4, left : left + 4] = 1
        images = torch.stack([-picture, picture]) + 0.05 * torch.randn(2, 1, SIZE, SIZE)
        found.append(Pictures(images, Datum(str(number), "a square", ("dark", "bright"), grades=(1.0, 0.0))))
    return found


def share_preferred(model: nn.Module, scheduler: DDPMScheduler, n: int = 64) -> float:
    """Of n new pictures, the share on bright ground: a square covers a quarter."""
    return float((sample(model, scheduler, (n, 1, SIZE, SIZE)).mean((1, 2, 3)) > 0).float().mean())


# ---------------------------------------------------------------------------------------------- batch and reading


@dataclass(frozen=True)
class PictureBatch(Tensors):
    """B data: images [B, K, ...], and the evidence about them."""

    ids: tuple[str, ...]
    images: Tensor
    evidence: Evidence

    def __len__(self) -> int:
        return len(self.ids)


def collate(data: Sequence[Pictures]) -> dict[str, tuple[PictureBatch, ...]]:
    """One micro-batch of data that all have K pictures."""
    ids = tuple(datum.said.id for datum in data)
    images = torch.stack([datum.images for datum in data])
    return {"batch": (PictureBatch(ids, images, evidence([datum.said for datum in data])),)}


@dataclass(frozen=True)
class DenoisingReader:
    """Reads how well a denoiser tells the noise in each picture: the mean squared error, [B, K].

    The K pictures of a datum get the same noise and the same time step, so that their errors can be compared. Up to
    weights and constants a denoising error bounds -log p from above; so it is given as log-probs too, and methods on
    log-probs run on diffusion models as they are: dpo is then Diffusion-DPO (arXiv 2311.12908).

    Attributes:
        scheduler: adds the noise, and says whether the model predicts it (epsilon) or the velocity.
        reference: a frozen denoiser, where the method needs one.
    """

    scheduler: DDPMScheduler
    reference: nn.Module | None = None

    def __call__(self, model: Any, batch: PictureBatch) -> Reading:
        b, k = batch.images.shape[:2]
        clean = batch.images.flatten(0, 1)
        noise = torch.randn_like(batch.images[:, :1]).expand_as(batch.images).flatten(0, 1)
        time = torch.randint(self.scheduler.config.num_train_timesteps, (b,), device=clean.device).repeat_interleave(k)
        noisy, wanted = self.scheduler.add_noise(clean, noise, time), self.wanted(clean, noise, time)

        def errors(denoiser: Any) -> Tensor:
            missed = denoiser(noisy, time).float() - wanted.float()
            return missed.square().flatten(1).mean(1).view(b, k)

        found = errors(model)
        with torch.no_grad():
            known = None if self.reference is None else -errors(self.reference.to(clean.device))
        return Reading(batch.evidence.mask, logps=-found, ref_logps=known, errors=found)

    def wanted(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What the model should predict."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return self.scheduler.get_velocity(clean, noise, time)
        raise UserError(f"prediction_type is {kind!r}; give 'epsilon' or 'v_prediction'")


# ---------------------------------------------------------------------------------------------- the model


class Denoiser(nn.Module):
    """A small U-Net: noisy pictures [n, 1, 8, 8] and time steps [n] -> what the scheduler wants predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=SIZE,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        return self.unet(noisy, time).sample


def fit(model: nn.Module, scheduler: DDPMScheduler, images: Tensor, steps: int) -> None:
    """Plain training of a denoiser on images [n, ...]."""
    reader, optimizer = DenoisingReader(scheduler), torch.optim.Adam(model.parameters(), lr=2e-3)
    data = [Pictures(image[None], Datum(str(n), "", ("picture",))) for n, image in enumerate(images)]
    for _ in range(steps):
        (batch,) = collate([data[n] for n in torch.randint(len(data), (64,))])["batch"]
        optimizer.zero_grad()
        reader(model, batch).require("errors").mean().backward()
        optimizer.step()


@torch.no_grad()
def sample(model: nn.Module, scheduler: DDPMScheduler, shape: Sequence[int]) -> Tensor:
    """New pictures of this shape, [n, ...], in main memory."""
    device = next(model.parameters()).device
    scheduler.set_timesteps(scheduler.config.num_train_timesteps, device=device)
    pictures = torch.randn(*shape, device=device)
    for time in scheduler.timesteps:
        pictures = scheduler.step(model(pictures, time.expand(len(pictures))), time, pictures).prev_sample
    return pictures.cpu()


def train(model: nn.Module, scheduler: DDPMScheduler, method: Method, data: list[Pictures], folder: str) -> None:
    """The loop of the house."""
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=32,
        num_train_epochs=10,
        learning_rate=1e-3,
        report_to="none",
        save_strategy="no",
        logging_steps=20,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    GradedTrainer(
        model,
        arguments,
        method=method,
        reader=DenoisingReader(scheduler),
        tokenizer=None,
        data_collator=collate,
        train_dataset=data,
    ).train()


def main() -> None:
    set_seed(0)
    data = pairs(512)
    for kind in ("epsilon", "v_prediction"):
        model, scheduler = Denoiser(), DDPMScheduler(100, prediction_type=kind)
        fit(model, scheduler, torch.stack([datum.images[1] for datum in data]), steps=500)
        print(f"{kind}: before, {share_preferred(model, scheduler):.0%} of its pictures are as people want them")
        with TemporaryDirectory() as folder:
            train(model, scheduler, methods.build("mapo"), data, folder)
        print(f"{kind}: after MaPO, {share_preferred(model, scheduler):.0%}")


if __name__ == "__main__":
    main()
