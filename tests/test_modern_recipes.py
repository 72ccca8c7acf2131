"""Later recipes as data: their rates, sizes and steps against the rules of FFCV and torchvision, made of torch's parts.

FFCV's rules stand in libffcv/ffcv-imagenet, train_imagenet.py and rn50_configs, torchvision's in pytorch/vision,
references/classification/train.py. Neither package is needed here; tests/timm compares draws with torchvision's own.
"""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from resnet_v2.data.augment import random_resized_crop
from resnet_v2.data.labels import Labels
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.resnet import ResNet, initialize
from resnet_v2.training.losses import loss_of
from resnet_v2.training.mixing import draw_pairs, mix
from resnet_v2.training.optim import optimizer_of, parameter_groups, set_learning_rate
from resnet_v2.training.plan import RunPlan, decide

# Epochs, and from which to which one FFCV's sizes grow.
FFCV = {16: (11, 13), 24: (17, 20), 32: (23, 27), 40: (29, 34), 56: (41, 48), 88: (65, 76)}
CLASSES, STEPS = 10, 100


def plan_of(name: str) -> RunPlan:
    return decide({"recipe": f"imagenet-resnet-50-{name}"})[0]


def ffcv_rate(epochs: int, position: float) -> float:
    """FFCV's rate at a position in epochs: linear between whole epochs, where `get_cyclic_lr` gives it."""
    ends = [float(np.interp(epoch, [0, 2, epochs], [1e-4 * 1.7, 1.7, 0])) for epoch in range(epochs + 1)]
    return float(np.interp(position, range(epochs + 1), ends))


def ffcv_size(epoch: int, first: int, last: int) -> int:
    """FFCV's `get_resolution`."""
    return int(np.round(np.interp(epoch, [first, last], [160, 192]) / 32)) * 32


@pytest.mark.parametrize("epochs", FFCV)
def test_rates_and_sizes_of_ffcv(epochs: int) -> None:
    plan = plan_of(f"ffcv-{epochs}")
    assert plan.epochs == epochs
    for number in range(epochs):
        assert plan.augmentation(number).size == ffcv_size(number, *FFCV[epochs])
        for place in np.linspace(0, 1, 5, endpoint=False):
            theirs, ours = ffcv_rate(epochs, number + place), plan.schedule.learning_rate(number + place)
            # Its warm-up begins at a ten thousandth of the rate, ours at 0.
            assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-4 * 1.7 if number < 2 else 0)
    found = plan.augmentation(0)
    assert (found.resized, found.interpolation, found.mirror, found.trivial) == (True, "area", True, False)
    assert not found.erasing
    assert plan.batch_size == 8 * 512


def torchvision_rates(optimizer: torch.optim.Optimizer, epochs: int) -> list[float]:
    """The rate of every epoch, by torch's own schedulers put together as train.py does."""
    warm = LinearLR(optimizer, start_factor=0.01, total_iters=5)
    main = CosineAnnealingLR(optimizer, T_max=epochs - 5)
    whole, rates = SequentialLR(optimizer, [warm, main], [5]), []
    for _ in range(epochs):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        with warnings.catch_warnings():  # SequentialLR tells its own scheduler the epoch, which torch deprecates
            warnings.simplefilter("ignore")
            whole.step()
    return rates


def test_rates_and_settings_of_torchvision() -> None:
    plan = plan_of("torchvision")
    rates = torchvision_rates(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5), 600)
    ours = [plan.schedule.learning_rate(number) for number in range(600)]
    assert ours[5:] == pytest.approx(rates[5:], rel=1e-9, abs=1e-9)
    # Its warm-up begins at a hundredth of the rate, ours at 0.
    assert ours[:5] == pytest.approx(rates[:5], abs=0.01 * 0.5 + 1e-9)
    found = plan.augmentation(0)
    assert found.size == random_resized_crop(176).size
    assert (found.resized, found.trivial, found.erasing, plan.image_size) == (True, True, 0.1, 224)
    # train.py: 1 - decay is made larger by world size x batch x steps between two updates / epochs.
    of_32_steps = 1 - (1 - 0.99998) * 8 * 128 * 32 / 600
    assert plan.config.optimisation.ema**32 == pytest.approx(of_32_steps, abs=1e-6)
    assert plan.batch_size == 8 * 128


@pytest.mark.parametrize("bn_wd", [True, False])
def test_gammas_decay_where_it_is_asked_for(bn_wd: bool) -> None:
    network = ResNet(Architecture(8, CLASSES, "cifar"))
    named = dict(network.named_parameters())
    normal = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    gammas = {id(named[f"{name}.weight"]) for name in normal if f"{name}.weight" in named}  # bn_data has none
    decayed, free = ({id(one) for one in group["params"]} for group in parameter_groups(network, 0.1, bn_wd))
    assert gammas <= (decayed if bn_wd else free)
    assert id(network.fc1.weight) in decayed
    assert len(decayed) + len(free) == len(list(network.parameters()))


def reference(network: ResNet, rate: float, decay: float) -> torch.optim.SGD:
    """torch's SGD as both make it: no decay for BatchNorm. The last layer's bias decays there, which ours does not."""
    normal = [one for module in network.modules() if isinstance(module, nn.BatchNorm2d) for one in module.parameters()]
    spared = {id(one) for one in [*normal, network.fc1.bias]}
    others = [one for one in network.parameters() if id(one) not in spared]
    groups = [{"params": [*normal, network.fc1.bias], "weight_decay": 0.0}, {"params": others, "weight_decay": decay}]
    return torch.optim.SGD(groups, lr=rate, momentum=0.9)


@pytest.mark.parametrize("name", [*(f"ffcv-{epochs}" for epochs in FFCV), "torchvision"])
def test_100_steps_are_the_references(name: str) -> None:
    """From the end of the warm-up to the end of the run, with the images of every step mixed where the recipe mixes."""
    plan = plan_of(name)
    its, labels = plan.config.optimisation, Labels(CLASSES, "class", ())
    generator = torch.Generator().manual_seed(1)
    networks = [initialize(ResNet(Architecture(8, CLASSES, "cifar")), 0).double() for _ in range(2)]
    ours, theirs = networks
    optimizer, referring = optimizer_of(ours, plan.schedule.base, its), reference(theirs, plan.schedule.base, its.wd)
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)
    begin = plan.config.schedule.warmup_epochs
    for step in range(STEPS):
        images = torch.randint(0, 256, (8, 8, 8, 3), generator=generator).float()
        truth: Tensor = torch.randint(0, CLASSES, (8,), generator=generator)
        if plan.config.augmentation.mixes:
            shares = nn.functional.one_hot(truth, CLASSES).float()
            images, truth = mix(images, shares, draw_pairs(plan.config, step, np.arange(0, 8, 2), 8))
            truth = truth.double()
        batch = images.permute(0, 3, 1, 2).double()
        position = begin + (plan.epochs - begin) * step / STEPS
        set_learning_rate(optimizer, plan.schedule.learning_rate(position))
        rate = ffcv_rate(plan.epochs, position)
        if name == "torchvision":
            rate = 0.5 * (1 + np.cos(np.pi * (position - 5) / 595)) / 2
        for group in referring.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        (loss_of(labels, ours(batch), truth, its.label_smoothing) / 8).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        referring.zero_grad()
        loss_function(theirs(batch), truth).backward()
        referring.step()
    pairs = list(zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert max(float((first.double() - second.double()).abs().max()) for first, second in pairs) < 1e-9
    start = initialize(ResNet(Architecture(8, CLASSES, "cifar")), 0).double()
    assert float((ours.conv0.weight - start.conv0.weight).detach().abs().max()) > 1e-3
