"""A small ResNet, trained by torch on 1797 images of handwritten digits, runs on gpucnn by one line: replace(model).

python examples/resnet_digits.py
python examples/resnet_digits.py --epochs 20 --prefer ours
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from gpucnn.kernels.torch import replace

TEST = 797  # of the images, on which it is not trained


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al. 2015, section 3.3); the first halves the picture."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.relu2 = nn.ReLU(inplace=True)
        around = [nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k)]
        self.around = nn.Sequential(*around) if (c, stride) != (k, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.around(x))


def resnet(width: int = 16) -> nn.Module:
    """x (N, 1, 8, 8) -> the scores of the ten digits (N, 10): 14 layers with weights."""
    stages = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
    blocks = [block for c, k, stride in stages for block in (BasicBlock(c, k, stride), BasicBlock(k, k, 1))]
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def digits(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 1, 8, 8) in 0 to 1 and labels (N,), to train on and to test with."""
    data = load_digits()
    x = torch.tensor(data.images[:, None] / 16, dtype=torch.float32, device=device)
    labels = torch.tensor(data.target, device=device)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(device)
    x, labels = x[order], labels[order]
    return x[TEST:], labels[TEST:], x[:TEST], labels[:TEST]


def train(model: nn.Module, x: Tensor, labels: Tensor, epochs: int) -> None:
    model.train()
    batches = -(-len(x) // 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=epochs, steps_per_epoch=batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), device=x.device).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def seconds(call: Callable[[], object], device: str) -> float:
    """How long one call takes, the GPU's work included."""
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=8, help="how often training sees every image")
    parser.add_argument("--prefer", default="fastest", choices=["fastest", "ours"], help="what replace() is told")
    parser.add_argument("--passes", type=int, default=40, help="over the test images, whose median time is told")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    x, labels, test_x, test_labels = digits(device)
    model = resnet().to(device)
    train(model, x, labels, options.epochs)

    original = copy.deepcopy(model)
    print(replace(model, prefer=options.prefer))
    models = {"before": original, "after": model}
    with torch.inference_mode():
        found = {name: net(test_x).argmax(1) for name, net in models.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(options.passes):  # in turns, so that what else the machine does falls on both
            for name, net in models.items():
                times[name].append(seconds(lambda net=net: net(test_x), device))

    print(f"\nOn {device}, {len(test_x)} images that it was not trained on:")
    for name in models:
        accuracy = (found[name] == test_labels).double().mean().item()
        print(f"{name:6}  {accuracy:.2%} right, {statistics.median(times[name]) * 1e3:.3g} ms a pass")
    print(f"{int((found['before'] != found['after']).sum())} predictions differ.")


if __name__ == "__main__":
    main()
