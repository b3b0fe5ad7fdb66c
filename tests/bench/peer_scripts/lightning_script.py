"""segmentation_models_pytorch's Unet(resnet34) under Lightning's Trainer, as their documentation has it."""

import argparse
from pathlib import Path

import lightning
import segmentation_models_pytorch as smp
import torch
from lines import Epochs
from plain_script import Tiles
from torch.utils.data import DataLoader


class Salt(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = smp.Unet("resnet34", encoder_weights=None, in_channels=1, classes=1)
        self.loss = torch.nn.BCEWithLogitsLoss()

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], at: int) -> torch.Tensor:
        inputs, masks = batch
        loss = self.loss(self.model(inputs[:, :1]), masks)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Stopwatch(lightning.Callback):
    def __init__(self, images: int) -> None:
        self.epochs = Epochs(images)

    def on_train_epoch_start(self, *_: object) -> None:
        self.epochs.begin()

    def on_train_epoch_end(self, *_: object) -> None:
        self.epochs.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--tiles", type=int)
    parser.add_argument("--precision", default="32-true")
    args = parser.parse_args()
    folder = args.data / "train"
    names = sorted(path.name for path in (folder / "images").iterdir())[: args.tiles]
    train = Tiles(folder, [name for at, name in enumerate(names) if at % 5], args.size, 1)
    loader = DataLoader(train, args.batch, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        precision=args.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Stopwatch(len(loader) * args.batch)],
    )
    trainer.fit(Salt(), loader)


if __name__ == "__main__":
    main()
