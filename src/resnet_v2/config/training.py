"""Settings of training and of what is known before it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from resnet_v2.config.common import Chosen


@dataclass(frozen=True)
class TrainConfig:
    """Train a network; the flags of the 2016 script keep their names, defaults and meaning."""

    gpus: str = "0"
    """GPUs, as 0,1,2,3: a rank for each; '' is the CPU, which is also taken, with a message, when no GPU is there"""
    data_dir: Path = Path("data/imagenet")
    """folder of the records"""
    data_type: str = "imagenet"
    """imagenet: its stem, train_480_q90.rec, val_256_q90.rec; any NAME: CIFAR stem, NAME_train.rec, NAME_val.rec"""
    list_dir: Chosen[Path] = None
    """folder of synset.txt and of the .lst files (default: --data-dir)"""
    lr: Chosen[float] = None
    """learning rate; with --retrain, from here on (default: 0.1, or the checkpoint's)"""
    optimizer: Literal["nag", "muon"] = "nag"
    """nag: Nesterov's SGD, as in 2016; muon: orthogonal steps for convolutions, far better in a short run"""
    mom: float = 0.9
    """momentum (Nesterov)"""
    bn_mom: float = 0.9
    """BatchNorm momentum as MXNet counts it: the share of the old moving statistics that is kept"""
    wd: Chosen[float] = None
    """weight decay, on weights and gammas only (default: 0.0001, or the checkpoint's)"""
    batch_size: Chosen[int] = None
    """images per step on this machine, all its ranks together (default: 256, CIFAR stem 128)"""
    workspace: int = 512
    """accepted and without effect: cuDNN chooses its own workspace today"""
    depth: Chosen[int] = None
    """number of layers (default: 50, CIFAR stem 20)"""
    stem: Chosen[Literal["imagenet", "cifar", "pooled"]] = None
    """layers before the first stage; pooled: cifar and max pooling, much faster (default: by --data-type)"""
    width: int = 1
    """multiplies the channels of every layer"""
    num_classes: int = 0
    """number of classes, 0: the lines of synset.txt, or 1000 for imagenet"""
    aug_level: Chosen[Literal[1, 2, 3]] = None
    """1: crop and mirror; 2: and scale, aspect, colour; 3: and rotation, shear (default: 2, CIFAR stem 1)"""
    num_examples: int = 0
    """images of one epoch, 0: all of the record"""
    kv_store: Literal["device", "local", "dist_sync"] = "device"
    """device or local: one machine; dist_sync: as many as torchrun starts (docs/training.md)"""
    model_load_epoch: int = 0
    """with --retrain: the epoch to go on from"""
    frequent: int = 50
    """batches between two log lines"""
    memonger: bool = False
    """train by the fastest activation plan for the memory that is free: what does not fit is computed again"""
    memory_budget: str = ""
    """the same for a stated amount, such as 12GB: all that the training process may take"""
    fused_backward: bool = False
    """update each weight inside the backward pass: gradients take no memory, the results are the same"""
    retrain: bool = False
    """go on from --model-load-epoch: weights, momentum and position in the schedule"""
    resume: Literal["no", "yes", "auto"] = "no"
    """--resume: go on where the run was stopped, amid an epoch too; auto: or start when there is nothing yet"""
    force: bool = False
    """resume with other settings; start anew over an unfinished run"""
    checkpoint_steps: int = 0
    """steps between two savings of PREFIX-latest within an epoch, 0: only at its end and when the run is stopped"""
    keep: int = 0
    """how many epochs' checkpoints to keep beside the best and the latest, 0: all"""

    epochs: Chosen[int] = None
    """epochs in all (default: 120, CIFAR stem 200)"""
    milestones: Chosen[str] = None
    """epochs of drops to a tenth (default: 30,60,90 of 120, CIFAR stem 120,160 of 200, the same shares of others)"""
    schedule: Literal["step", "cosine", "linear"] = "step"
    """how the learning rate falls; linear with --warmup-epochs is one cycle"""
    warmup_epochs: float = 0.0
    """epochs over which the rate grows linearly from 0"""
    label_smoothing: float = 0.0
    """share of the target spread over all classes, 0 to 1"""
    zero_init_residual: bool = False
    """let every unit begin as its shortcut: faster in the first epochs"""
    finetune: str = ""
    """start from all weights but the last layer's of this checkpoint (prefix, file or folder), with its architecture"""
    aug_schedule: str = ""
    """augmentation level from an epoch on, as 0:2,95:1; comes before --aug-level"""
    size_schedule: str = ""
    """side of the training images from an epoch on, as 0:24,6:32: small images first make the first epochs faster"""
    augment: Literal["levels", "rrc"] = "levels"
    """levels: what --aug-level says; rrc: random resized crop of 8 to 100 % of the area, and mirror"""
    pad: Chosen[int] = None
    """pixels of grey around an image before it is cropped at random (default: 0, CIFAR stem 4)"""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "area"] = "bilinear"
    """how images are resized and warped; area averages where rrc shrinks and is bilinear elsewhere"""
    fast_decode: bool = False
    """decode JPEG faster and less exactly: 1.3 grey levels on average, far more at coloured edges"""
    version: Literal["v2", "v1"] = "v2"
    """v2: pre-activation units; v1: the units of the first ResNet paper"""
    seed: int = 0
    """seed of weights, order and augmentation"""
    device: str = ""
    """torch device, such as cpu, cuda:1, mps; comes before --gpus"""
    nproc: int = 1
    """ranks on this machine, as --nproc 2 --device cpu; --gpus 0,1 says the same for GPUs"""
    max_restarts: int = 0
    """how often to start all ranks again, from the last checkpoint, when one has died"""
    sync_bn: bool = False
    """BatchNorm over the images of all ranks"""
    amp: Literal["off", "bf16", "fp16", "auto"] = "off"
    """compute in bfloat16, or in float16 with a scaled loss; auto: the faster one here; weights stay float32"""
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
    accumulate: int = 1
    """work through the images of a step in so many parts: less memory, the same step but for BatchNorm"""
    clip_norm: float = 0.0
    """shorten the gradient to this length when it is longer, 0: never"""
    ema: float = 0.0
    """share of the old average kept per step in a moving average of the weights, as 0.999; 0: none"""
    profile: bool = False
    """write a torch profiler trace of ten steps, PREFIX-trace.json"""
    dry_run: bool = False
    """check data, settings and disk, time three steps, and end"""
    threads: int = 0
    """threads that read and augment images, 0: one per core (divided among the ranks)"""
    on_error: Literal["stop", "skip"] = "stop"
    """a damaged record: stop the run, or log it and take the next one instead (up to one in a hundred)"""
    max_pixels: int = 178_956_970
    """images that claim more pixels are refused before memory is taken"""
    model_prefix: str = ""
    """path and start of the names of checkpoints and logs (default: model/resnet-TYPE-DEPTH)"""

    recipe: str = ""
    """a named run (resnet-v2 recipes): every setting that is not given, or has its default, is the recipe's"""
    tensorboard: bool = False
    """write the log's figures for TensorBoard too, into the folder PREFIX.tensorboard (needs resnet-v2[tensorboard])"""

    def is_imagenet(self) -> bool:
        """Whether the records have ImageNet's names, and the network its stem where --stem says nothing else."""
        return self.data_type == "imagenet"


def arguments_of(config: TrainConfig) -> list[str]:
    """The command line flags that say what a config says."""
    arguments = []
    for field in fields(config):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if value != field.default:
            no = f"--no-{field.name.replace('_', '-')}"
            arguments.append(flag if value is True else no if value is False else f"{flag}={value}")
    return arguments


@dataclass(frozen=True)
class PlanConfig:
    """How much memory and time training takes, plain and by activation plans; nothing is computed, no GPU is needed."""

    depth: int = 200
    """number of layers"""
    batch_size: int = 128
    """images per step"""
    budget: str = ""
    """memory of the whole process, such as 12GB: shows its plan, and every plan's largest batch in it"""
    image: int = 0
    """side of the images in pixels, 0: 224, CIFAR stem 32"""
    stem: Chosen[Literal["imagenet", "cifar", "pooled"]] = None
    """the network's kind (default: imagenet for the depths that it was published with)"""
    width: int = 1
    """multiplies the channels of every layer"""
    version: Literal["v2", "v1"] = "v2"
    """v2: pre-activation units; v1: the units of the first ResNet paper"""
    num_classes: int = 1000
    """number of classes"""
    amp: Literal["none", "bf16"] = "none"
    """bf16: activations in bfloat16 under autocast"""
    fused_backward: bool = False
    """as train --fused-backward"""
    gpu: str = ""
    """the GPU to forecast for, such as H100, A100, T4, or here: the one of this machine (default: a CPU)"""
    json: bool = False
    """print one JSON list, one object per plan"""
    out: Path | None = None
    """picture of the memory over one step; the ending chooses the format (.png, .svg, .pdf)"""


@dataclass(frozen=True)
class RecipesConfig:
    """List the runs that `train --recipe` knows: settings, hardware, errors published and measured, their sources."""

    json: bool = False
    """print one JSON list"""
    markdown: bool = False
    """print the table of docs/results.md: what was published, measured here, and what stands in for the rest"""
