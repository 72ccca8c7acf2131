"""Every setting once, with its default, unit and help: the flags of each command and the configs saved with a run.

One frozen dataclass per command. The line below a field is its help text in `resnet-v2 COMMAND --help`.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from tyro.conf import Positional, arg

from resnet_v2.files import ResnetError

Number = TypeVar("Number", int, float)
Value = TypeVar("Value")
# A setting whose default depends on others, so that its help text tells it.
Chosen = Annotated[Value | None, arg(help_behavior_hint="")]


def parse_numbers(text: str, kind: type[Number], flag: str) -> tuple[Number, ...]:
    """`"30,60,90"` -> `(30, 60, 90)`; the empty text is the empty tuple."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ResnetError(f"{flag} {text!r} is not a list of numbers; write it like 30,60,90.") from None


@dataclass(frozen=True)
class DataConfig:
    """Make the records of a named data set (digits, cifar10, fashion-mnist) or of a folder of class folders."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """digits, cifar10, fashion-mnist, or the path of a folder that holds one folder per class"""
    out: Chosen[Path] = None
    """folder for NAME_train.rec, NAME_val.rec, their .idx and .lst, and synset.txt (default: data/NAME)"""
    archive: Path | None = None
    """cifar10: cifar-10-binary.tar.gz; fashion-mnist: the folder of its four .gz files (nothing is downloaded)"""
    mirror: str = ""
    """address of a folder to download from instead of the official one (checksums stay the same)"""
    resize: int = 32
    """a folder of class folders only: shorter side in pixels, 0 keeps the size"""
    val_ratio: float = 0.1
    """a folder of class folders only: share held out for validation, unless it has train and val folders"""
    seed: int = 0
    """seed of the split and of the shuffling"""
    threads: int = 0
    """packing threads, 0: one per core"""


@dataclass(frozen=True)
class ListConfig:
    """Write shuffled PREFIX_train.lst and PREFIX_val.lst and synset.txt for a folder of class folders or a tar."""

    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """folder of class folders, or of train and val folders of them; or a tar of either, or of one tar per class"""
    prefix: Annotated[Positional[Path], arg(metavar="PREFIX")]
    """path and start of the names of the lists: data/flowers writes data/flowers_train.lst"""
    val_per_class: int = 0
    """images of every class held out for validation"""
    val_ratio: float = 0.0
    """share of every class held out for validation, 0 to 1"""
    min_images: int = 0
    """leave out classes with fewer images"""
    val_labels: Path | None = None
    """write PREFIX_val.lst alone, for images in no class folders; a file of CLASS or NAME CLASS lines (WNID, number)"""
    synset: Path | None = None
    """with --val-labels of numbers: the file of WNIDs that the numbers count through (the devkit's: map_clsloc.txt)"""
    seed: int = 0
    """seed of the split and of the shuffling"""


@dataclass(frozen=True)
class PackConfig:
    """Pack the images of a list into a .rec and .idx (MXNet's im2rec; its words work too: resize=480 quality=90)."""

    lst: Annotated[Positional[Path], arg(metavar="LST")]
    """list of images: index, label, path, separated by tabs"""
    root: Annotated[Positional[Path], arg(metavar="ROOT")]
    """folder that the paths of the list start from, or the tar (or tar of tars) that it was made from"""
    out: Annotated[Positional[Path], arg(metavar="OUT.rec")]
    """the .rec to write; the .idx is written beside it; a run that was stopped goes on when it is started again"""
    resize: int = 0
    """shorter side in pixels, 0 keeps the size"""
    quality: int = 90
    """JPEG quality, 1 to 100 (PNG: compression 0 to 9)"""
    encoding: Literal[".jpg", ".png"] = ".jpg"
    """file format of the images in the record"""
    pass_through: bool = False
    """put the image files into the record as they are, turned ones too; only their headers are looked at"""
    threads: int = 0
    """threads, 0: one per core"""
    on_error: Literal["skip", "stop"] = "skip"
    """an unreadable image: name it, leave it out and go on, or stop, to go on there when it is mended"""


@dataclass(frozen=True)
class IndexConfig:
    """Make the .idx of a .rec by reading the record once."""

    rec: Annotated[Positional[Path], arg(metavar="REC")]
    """the .rec"""


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
    schedule: Literal["step", "cosine"] = "step"
    """how the learning rate falls"""
    warmup_epochs: float = 0.0
    """epochs over which the rate grows linearly from 0"""
    label_smoothing: float = 0.0
    """share of the target spread over all classes, 0 to 1"""
    finetune: str = ""
    """start from all weights but the last layer's of this checkpoint (prefix, file or folder), with its architecture"""
    aug_schedule: str = ""
    """augmentation level from an epoch on, as 0:2,95:1; comes before --aug-level"""
    augment: Literal["levels", "rrc"] = "levels"
    """levels: what --aug-level says; rrc: random resized crop of 8 to 100 % of the area, and mirror"""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "area"] = "bilinear"
    """how images are resized and warped; area averages where rrc shrinks and is bilinear elsewhere"""
    fast_decode: bool = False
    """decode JPEG faster and less exactly: 1.3 grey levels on average, much more at coloured edges (docs/training.md)"""
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
    amp: Literal["off", "bf16", "fp16"] = "off"
    """compute in bfloat16, or in float16 with a scaled loss; weights stay float32"""
    compile: bool = False
    """compile the network (torch.compile): a minute at the start, faster steps after it"""
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
    """a published run (resnet-v2 recipes): every setting that is not given, or has its default, is the recipe's"""
    tensorboard: bool = False
    """write the log's figures for TensorBoard too, into the folder PREFIX.tensorboard (needs resnet-v2[tensorboard])"""

    def is_imagenet(self) -> bool:
        """Whether the network has the ImageNet stem (and the records ImageNet's names)."""
        return self.data_type == "imagenet"


def arguments_of(config: TrainConfig) -> list[str]:
    """The command line flags that say what a config says."""
    arguments = []
    for field in fields(config):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if value != field.default:
            arguments.append(flag if value is True else f"{flag}={value}")
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
    stem: Chosen[Literal["imagenet", "cifar"]] = None
    """the network's kind (default: imagenet for the depths that it was published with)"""
    version: Literal["v2", "v1"] = "v2"
    """v2: pre-activation units; v1: the units of the first ResNet paper"""
    num_classes: int = 1000
    """number of classes"""
    amp: Literal["none", "bf16"] = "none"
    """bf16: activations in bfloat16 under autocast"""
    fused_backward: bool = False
    """as train --fused-backward"""
    json: bool = False
    """print one JSON list, one object per plan"""
    out: Path | None = None
    """picture of the memory over one step; the ending chooses the format (.png, .svg, .pdf)"""


@dataclass(frozen=True)
class RecipesConfig:
    """List the published runs that `train --recipe` knows: settings, hardware, error, and the source of each."""

    json: bool = False
    """print one JSON list"""


EngineName = Literal["torch", "onnx", "openvino"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Loss, top-1 and top-5 error of checkpoints over a record, every image counted once."""

    rec: Path
    """the .rec to evaluate on"""
    prefix: tuple[str, ...] = ("",)
    """start of the checkpoint's name, such as model/resnet-cifar10-20; several give a table"""
    epoch: Chosen[int] = None
    """epoch of the checkpoint (default: the last one, or the one that the name ends with)"""
    crop: str = ""
    """side of the centre crop in pixels, several as 224,320 (default: the checkpoint's)"""
    resize: str = ""
    """shorter side in pixels before cropping, one for all crops or one for each (default: as packed)"""
    ten_crop: bool = False
    """average the corners, the centre and their mirror images"""
    table: bool = False
    """print a Markdown table: network, crop, top-1, top-5"""
    per_class: bool = False
    """print the error of every class, the worst first"""
    confusion: Path | None = None
    """draw the confusion matrix into this picture (.png, .svg, .pdf)"""
    mxnet_count: int = 0
    """MXNet's batch size: count the last batch's filling too, as its logs do (50,176 of 50,000 images at 256)"""
    engine: EngineName = "torch"
    """what runs the network; onnx and openvino use the CPU"""
    precision: Precision = "float32"
    """bfloat16 is faster on processors that have it and less exact"""
    batch_size: int = 128
    """images per step"""
    gpus: str = "0"
    """the GPU to use; '' is the CPU"""
    device: str = ""
    """torch device; comes before --gpus"""
    threads: int = 0
    """threads that read images, 0: one per core"""
    json: bool = False
    """print JSON: images, loss, top1_error, top5_error; a list for several evaluations"""


@dataclass(frozen=True)
class CompareConfig:
    """ResNet-v1 against ResNet-v2, or any two networks, on your own data: a table, and whether chance explains it."""

    first: Annotated[Positional[str], arg(metavar="FIRST")]
    """prefix of the first network (v1), such as model/resnet-v1-cifar10-20; several separated by commas"""
    second: Annotated[Positional[str], arg(metavar="SECOND")]
    """prefix of the second network (v2); as many as of the first, in the same order"""
    rec: Path
    """the .rec to evaluate on"""
    crop: str = ""
    """side of the centre crop in pixels, several as 224,320 (default: the checkpoint's)"""
    resize: str = ""
    """shorter side in pixels before cropping, one for all crops or one for each (default: as packed)"""
    batch_size: int = 128
    """images per step"""
    gpus: str = "0"
    """the GPU to use; '' is the CPU"""
    device: str = ""
    """torch device; comes before --gpus"""


@dataclass(frozen=True)
class PredictConfig:
    """Name what is in pictures, with the preprocessing that evaluation uses; exit status 1 when one was unreadable."""

    img: tuple[str, ...]
    """image files, folders of them, .rec files, or - for standard input: an image, or paths line by line"""
    prefix: str = ""
    """start of the checkpoint's name, such as model/resnet-cifar10-20 (default: the network that ships)"""
    epoch: Chosen[int] = None
    """epoch of the checkpoint (default: the last one)"""
    gpu: int = 0
    """the GPU to use when there is one"""
    device: str = ""
    """torch device; comes before --gpu"""
    engine: EngineName = "torch"
    """what runs the network; onnx and openvino use the CPU"""
    precision: Precision = "float32"
    """bfloat16 is faster on processors that have it and less exact"""
    synset: Chosen[Path] = None
    """file with one class name per line (default: the names saved in the checkpoint)"""
    top: int = 5
    """how many classes to name"""
    format: Literal["text", "jsonl", "csv"] = "text"
    """jsonl: one JSON object per image; csv: one row per class"""
    batch_size: int = 32
    """images per step"""
    threads: int = 0
    """threads that read images, 0: one per core"""


@dataclass(frozen=True)
class FetchConfig:
    """Get a published network as a checkpoint of ours: timm/resnetv2_50.a1h_in1k or timm/resnetv2_101.a1h_in1k."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """name of the network"""
    file: Annotated[Path | None, arg(name="from")] = None
    """a copy of its model.safetensors, so that nothing is downloaded"""
    out: str = ""
    """start of the name to write: OUT-0000.safetensors (default: model/ and the name)"""
    synset: Path | None = None
    """file with one class name per line, for the checkpoint's header"""


@dataclass(frozen=True)
class CardConfig:
    """Describe a checkpoint in Markdown, as model hubs do; with --out a folder that is ready to be pushed to one."""

    prefix: str = ""
    """start of the checkpoint's name (default: the network that ships)"""
    epoch: Chosen[int] = None
    """epoch of the checkpoint (default: the last one)"""
    out: Path | None = None
    """folder for README.md, config.json and model.safetensors (default: the Markdown is printed)"""
    rec: Path | None = None
    """a .rec to evaluate on, with an errors-by-class section (default: the figures saved in the checkpoint)"""
    data_name: str = ""
    """what the data set is called (default: the run's --data-type)"""
    license: str = ""
    """licence of the weights, such as apache-2.0 (default: none is stated)"""


@dataclass(frozen=True)
class DemoConfig:
    """Show a page in the browser: drop a picture, see its classes and where the network saw them."""

    prefix: str = ""
    """start of the checkpoint's name (default: the network that ships)"""
    epoch: Chosen[int] = None
    """epoch of the checkpoint (default: the last one)"""
    device: str = ""
    """torch device (default: the CPU)"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 shows the page to everybody who can reach this machine"""
    port: int = 7860
    """port to listen on"""


@dataclass(frozen=True)
class ExportConfig:
    """Write the network of a checkpoint for other systems, or MXNet's in our form."""

    prefix: str
    """start of the checkpoint's name; MXNet's PREFIX-0000.params is found too"""
    to: Literal["onnx", "torch", "mxnet", "safetensors"]
    """onnx: OUT-0000.onnx; torch: OUT-0000.pt2 (torch.export); mxnet: .params and JSON; safetensors: weights alone"""
    epoch: Chosen[int] = None
    """epoch of the checkpoint (default: the last one)"""
    out: str = ""
    """start of the names to write (default: the checkpoint's)"""


@dataclass(frozen=True)
class PlotConfig:
    """Draw training curves from logs, ours or MXNet's, and print each one's best epoch."""

    logs: str
    """log files, separated by commas"""
    out: Path = Path("training-curve.png")
    """picture to write; the ending chooses the format: .png, .svg, .pdf, or .html for an interactive page"""
    metric: Literal["top1", "top5"] = "top1"
    """error to draw; an .html shows both and opens with this one"""
    follow: bool = False
    """draw again whenever a log has grown, until Ctrl-C; an .html loads itself again"""
    json: bool = False
    """print one JSON list: log, epochs, best_epoch, top1_error, top5_error"""
