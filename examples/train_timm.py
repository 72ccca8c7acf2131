"""Train a network of timm on a record, with this project's loader and a loop of one's own.

    pip install timm
    python examples/train_timm.py data/train_480_q90.rec --network resnetv2_50 --batch-size 64

It stops after `--steps` steps, writes where it is into `--state`, and goes on there when it is started again.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

import timm
from resnet_v2.data.library import RecordLoader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rec", type=Path)
    parser.add_argument("--network", default="resnetv2_50")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--state", type=Path, default=Path("state.pt"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    torch.manual_seed(0)
    network = timm.create_model(options.network, num_classes=options.classes).to(
        device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(network.parameters(), options.lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    loader = RecordLoader(options.rec, batch_size=options.batch_size, size=options.size, classes=options.classes)
    if options.state.exists():
        state = torch.load(options.state, map_location=device)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])

    # timm's networks take colours of mean 0 and deviation 1; this loader gives them as they are, 0 to 255.
    mean = torch.tensor(network.default_cfg["mean"], device=device).view(1, 3, 1, 1) * 255
    deviation = torch.tensor(network.default_cfg["std"], device=device).view(1, 3, 1, 1) * 255
    left = options.steps
    while left:
        for images, labels in loader:
            inputs = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
            loss = F.cross_entropy(network((inputs - mean) / deviation), torch.from_numpy(labels).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            left -= 1
            print(f"epoch {loader.epoch}, {left} steps left, loss {loss.item():.4f}", flush=True)
            if not left:
                break
        # Amid an epoch or at its end: the next start goes on with the batch that comes next.
        saved = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
        torch.save(saved, options.state)


if __name__ == "__main__":
    main()
