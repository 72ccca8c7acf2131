"""Settings of training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from resnet_v2.config.augmenting import Augmentation
from resnet_v2.config.fields import (
    Amount,
    Count,
    CountOrNone,
    LabelKind,
    OnError,
    OnGpus,
    Place,
    Range,
    Seed,
    Share,
    ShareBelowOne,
    Stem,
    Usual,
    Version,
    Workers,
    flat,
    hints,
    nested,
    parse_labels,
    parse_numbers,
    refuse_folder,
    settings,
)
from resnet_v2.machine import parse_bytes


@settings
class Data:
    """What is read."""

    folder: Annotated[Positional[str], arg(metavar="[FOLDER]")] = ""
    """photos in a folder for each class, or train and val of such; other settings then suit them (docs/photos.md)"""
    data_dir: Place = Path("data/imagenet")
    """folder of the records, or an address such as s3://bucket/imagenet"""
    data_type: str = "imagenet"
    """imagenet: its stem, train_480_q90.rec, val_256_q90.rec; any NAME: CIFAR stem, NAME_train.rec, NAME_val.rec"""
    data_train: str = ""
    """the .rec to train on in place of those of --data-dir, several as a.rec,b.rec or 'train_*.rec'"""
    data_val: str = ""
    """the same to evaluate on"""
    list_dir: Annotated[Place, Usual("--data-dir, or where --data-train is")] = Path("data/imagenet")
    """folder of synset.txt and of the .lst files"""
    num_classes: Annotated[int, Range(0, 10**6), Usual("0")] = 1000
    """number of classes, 0: the lines of synset.txt, or 1000 for imagenet"""
    labels: Annotated[str, arg(metavar="{class,multi,soft,tasks:N,N}")] = "class"
    """what a record tells. class: one, its first label; multi: 0 or 1 for every class; soft: a probability for every
    class; tasks:10,5: the classes of two tasks, of which there are 10 and 5"""
    num_examples: CountOrNone = 0
    """images of one epoch, 0: all of the record"""
    on_error: OnError = "stop"
    """a damaged record: stop, or log it and take the next one instead (in validation none), up to one in a hundred"""
    max_pixels: Annotated[int, Range(1, 2**40)] = 178_956_970
    """images that claim more pixels are refused before memory is taken"""
    fast_decode: bool = False
    """decode JPEG faster and less exactly: 1.3 grey levels on average, far more at coloured edges"""

    @property
    def label_kind(self) -> LabelKind:
        """What the labels are."""
        return parse_labels(self.labels)[0]

    @property
    def task_classes(self) -> tuple[int, ...]:
        """The number of classes of each task, none where there are no tasks."""
        return parse_labels(self.labels)[1]


@settings
class Network:
    """What is trained, and from what it starts."""

    depth: Annotated[int, Range(1, 10**6), Usual("50, CIFAR stem 20, dawn 11")] = 50
    """number of layers"""
    stem: Annotated[Stem, Usual("by --data-type")] = "imagenet"
    """layers before the first stage; pooled: cifar and max pooling, much faster; dawn: cifar with max pooling in every
    stage, the most accurate in minutes; timm, gluon: as in their networks"""
    width: Annotated[int, Range(1, 64)] = 1
    """multiplies the channels of every layer"""
    version: Version = "v2"
    """v2: pre-activation units; v1: the units of the first ResNet paper"""
    image_size: Annotated[int, Range(8, 2048), Usual("224, CIFAR stem 32")] = 224
    """side in pixels of the square images that it is trained and evaluated on"""
    bn_mom: Share = 0.9
    """BatchNorm momentum as MXNet counts it: the share of the old moving statistics that is kept"""
    zero_init_residual: bool = False
    """let every unit begin as its shortcut: faster in the first epochs"""
    whiten_stem: bool = False
    """let the first convolution begin with the principal components of the training images: better in short runs"""
    finetune: str = ""
    """start from all weights but the last layer's of this checkpoint (prefix, file or folder), with its architecture"""


@settings
class Schedule:
    """How long it trains, and how fast."""

    epochs: Annotated[int, Range(1, 10**6), Usual("120, CIFAR stem 200")] = 120
    """epochs in all"""
    lr: Annotated[float, Range(0), Usual("0.1, or the checkpoint's")] = 0.1
    """learning rate; with --retrain, from here on"""
    schedule: Literal["step", "cosine", "linear"] = "step"
    """how the learning rate falls; linear with --warmup-epochs is one cycle"""
    milestones: Annotated[str, Usual("30,60,90 of 120, CIFAR stem 120,160 of 200, the same shares of others")] = (
        "30,60,90"
    )
    """epochs of drops to a tenth"""
    warmup_epochs: Annotated[float, Range(0, 10**6)] = 0.0
    """epochs over which the rate grows linearly from 0"""
    patience: Annotated[int, Range(0, 10**6)] = 0
    """end the run when so many epochs have brought no better validation error, 0: never"""

    @property
    def drops(self) -> tuple[int, ...]:
        """The epochs at which the rate drops to a tenth."""
        return parse_numbers(self.milestones, int, "milestones", Range(1))


@settings
class Optimisation:
    """What a step does with a batch."""

    batch_size: Annotated[int, Range(1, 10**6), Usual("256, CIFAR stem 128")] = 256
    """images per step on this machine, all its ranks together"""
    optimizer: Literal["nag", "sgd", "muon"] = "nag"
    """nag: Nesterov's SGD, as in 2016; sgd: with ordinary momentum, as in most later recipes; muon: orthogonal steps
    for convolutions, far better in a short run"""
    mom: ShareBelowOne = 0.9
    """momentum"""
    wd: Annotated[float, Range(0), Usual("0.0001, or the checkpoint's")] = 0.0001
    """weight decay, on weights and gammas only"""
    bn_wd: bool = True
    """weight decay on BatchNorm's gammas too, as in 2016; --no-bn-wd for later recipes"""
    label_smoothing: Share = 0.0
    """share of the target spread over all classes"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: in the loss of training each class counts the same, however few images it has"""
    amp: Literal["off", "bf16", "fp16", "auto"] = "auto"
    """compute in bfloat16, or in float16 with a scaled loss (GPUs); auto: bf16 where the device does, else off"""
    accumulate: Annotated[int, Range(1, 10**6)] = 1
    """work through the images of a step in so many parts: less memory, the same step but for BatchNorm"""
    clip_norm: Amount = 0.0
    """shorten the gradient to this length when it is longer, 0: never"""
    ema: ShareBelowOne = 0.0
    """share of the old average kept per step in a moving average of the weights, as 0.999; 0: none"""
    sync_bn: bool = False
    """BatchNorm over the images of all ranks"""
    seed: Seed = 0
    """seed of weights, order and augmentation"""


@settings
class Memory:
    """What the backward pass keeps."""

    memonger: bool = False
    """train by the fastest activation plan for the memory that is free: what does not fit is computed again"""
    memory_budget: str = ""
    """the same for a stated amount, such as 12GB: all that the training process may take"""
    fused_backward: bool = False
    """update each weight inside the backward pass: gradients take no memory, the results are the same"""

    @property
    def budget_bytes(self) -> int:
        """The budget in bytes, 0: none is stated."""
        return parse_bytes(self.memory_budget, "memory_budget")

    @property
    def planned(self) -> bool:
        """Whether an activation plan is asked for."""
        return self.memonger or bool(self.memory_budget)


@settings
class Devices(OnGpus):
    """What it runs on."""

    gpus: str = "0"
    """GPUs, as 0,1,2,3: a rank for each; '' is the CPU, which is also taken, with a message, when no GPU is there"""
    device: str = ""
    """torch device, such as cpu, cuda:1, mps; comes before --gpus"""
    nproc: Annotated[int, Range(1, 1024)] = 1
    """ranks on this machine, as --nproc 2 --device cpu; --gpus 0,1 says the same for GPUs"""
    max_restarts: Annotated[int, Range(0, 10**6)] = 0
    """how often to start all ranks again, from the last checkpoint, when one has died"""
    kv_store: Literal["device", "local", "dist_sync"] = "device"
    """device or local: one machine; dist_sync: as many as torchrun starts (docs/training.md)"""
    workers: Workers = "auto"
    """processes that read and augment images, 0: none beside this one; auto: by cores, ranks and memory"""
    deterministic: bool = True
    """on a GPU: the same command gives the same file; --no-deterministic may be faster"""
    tf32: bool = True
    """on a GPU: float32 convolutions and products round what they multiply to TF32, which is several times faster"""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """on a GPU: record the step once and play it (auto: for networks that wait for the processor); no bit changes"""
    compile: bool = False
    """compile each kind of unit (torch.compile): half a minute at the start; made for GPUs, no gain on a CPU"""
    memory_format: Literal["channels-last", "contiguous"] = "channels-last"
    """how images lie in memory; which is faster depends on the device"""
    workspace: CountOrNone = 512
    """accepted and without effect: cuDNN chooses its own workspace today"""


@settings
class Output:
    """What it writes and where it goes on."""

    model_prefix: Annotated[str, Usual("model/resnet-TYPE-DEPTH")] = "model/resnet-imagenet-50"
    """path and start of the names of checkpoints and logs"""
    recipe: str = ""
    """a named run (resnet-v2 recipes): every setting that is not given is the recipe's"""
    resume: Literal["no", "yes", "auto"] = "no"
    """--resume: go on where the run was stopped, amid an epoch too; auto: or start when there is nothing yet"""
    retrain: bool = False
    """go on from --model-load-epoch: weights, momentum and position in the schedule"""
    model_load_epoch: CountOrNone = 0
    """with --retrain: the epoch to go on from"""
    force: bool = False
    """resume with other settings; start anew over an unfinished run"""
    keep: CountOrNone = 0
    """how many epochs' checkpoints to keep beside the best and the latest, 0: all"""
    checkpoint_steps: CountOrNone = 0
    """steps between two savings of PREFIX-latest within an epoch, 0: only at its end and when the run is stopped"""
    frequent: Count = 50
    """batches between two log lines"""
    tensorboard: bool = False
    """write the log's figures for TensorBoard too, into the folder PREFIX.tensorboard (extra tensorboard)"""
    profile: bool = False
    """write a torch profiler trace of ten steps, PREFIX-trace.json"""
    profile_data: bool = False
    """log after each epoch where the time of loading went: reading, preparing, decoding, warping, colours"""
    find_lr: bool = False
    """try growing learning rates, name one that suits, draw their losses as PREFIX-find-lr.png, and end"""
    dry_run: bool = False
    """check data, settings and disk, time three steps, and end"""
    explain: bool = False
    """print every setting with where it comes from, and end"""

    @property
    def trial(self) -> bool:
        """Whether no run is made, and no checkpoint written."""
        return self.dry_run or self.find_lr

    def __post_init__(self) -> None:
        """Refuse a folder where the start of a name belongs."""
        if self.model_prefix:  # else it is made of the data set and the depth
            refuse_folder("model_prefix", self.model_prefix)


# What changes no number of a run, so that it may go on with others and no checkpoint names them.
NEUTRAL = (hints(Memory).keys() | hints(Output).keys()) - {"retrain", "model_load_epoch"}
NEUTRAL |= {"cuda_graphs", "device", "gpus", "kv_store", "max_restarts", "workers", "workspace"}


@dataclass(frozen=True)
class TrainConfig:
    """Train a network; the flags of the 2016 script keep their names, defaults and meaning."""

    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    schedule: Schedule = field(default_factory=Schedule)
    optimisation: Optimisation = field(default_factory=Optimisation)
    augmentation: Augmentation = field(default_factory=Augmentation)
    memory: Memory = field(default_factory=Memory)
    devices: Devices = field(default_factory=Devices)
    output: Output = field(default_factory=Output)

    @classmethod
    def of(cls, **values: Any) -> "TrainConfig":
        """A config from some settings by name, the others by default; SettingError says which one cannot be."""
        return nested(cls, values)

    def changed(self, **values: Any) -> "TrainConfig":
        """The same with other values of some settings."""
        return nested(TrainConfig, self.flat() | values)

    def flat(self) -> dict[str, Any]:
        """All settings by name."""
        return dict(flat(self))


TRAIN_DEFAULTS: Mapping[str, Any] = TrainConfig().flat()


def arguments_of(given: Mapping[str, Any]) -> list[str]:
    """The command line flags that give these settings."""
    arguments = [str(given["folder"])] if given.get("folder") else []
    for name, value in given.items():
        if name == "folder":
            continue
        flag = name.replace("_", "-")
        arguments.append(f"--{flag}" if value is True else f"--no-{flag}" if value is False else f"--{flag}={value}")
    return arguments
