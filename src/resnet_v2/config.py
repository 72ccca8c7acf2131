"""Every setting once, with its default, unit and help: the flags of each command and the configs saved with a run.

One frozen dataclass per command. The line below a field is its help text in `resnet-v2 COMMAND --help`.
"""

from dataclasses import dataclass
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
    """the GPU to use; '' is the CPU, which is also taken, with a message, when no GPU is there"""
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
    """images per step on this machine (default: 256, CIFAR stem 128)"""
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
    kv_store: Literal["device", "local"] = "device"
    """where gradients are summed; one machine"""
    model_load_epoch: int = 0
    """with --retrain: the epoch to go on from"""
    frequent: int = 50
    """batches between two log lines"""
    memonger: bool = False
    """keep only each unit's input for the backward pass and compute the rest again: less memory, more time"""
    retrain: bool = False
    """go on from --model-load-epoch: weights, momentum and position in the schedule"""

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
    version: Literal["v2", "v1"] = "v2"
    """v2: pre-activation units; v1: the units of the first ResNet paper"""
    seed: int = 0
    """seed of weights, order and augmentation"""
    device: str = ""
    """torch device, such as cpu, cuda:1, mps; comes before --gpus"""
    threads: int = 0
    """threads that read and augment images, 0: one per core"""
    on_error: Literal["stop", "skip"] = "stop"
    """a damaged record: stop the run, or log it and take the next one instead (up to one in a hundred)"""
    max_pixels: int = 178_956_970
    """images that claim more pixels are refused before memory is taken"""
    model_prefix: str = ""
    """path and start of the names of checkpoints and logs (default: model/resnet-TYPE-DEPTH)"""

    def is_imagenet(self) -> bool:
        """Whether the network has the ImageNet stem (and the records ImageNet's names)."""
        return self.data_type == "imagenet"


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
    """picture to write; the ending chooses the format (.png, .svg, .pdf)"""
    metric: Literal["top1", "top5"] = "top1"
    """error to draw"""
    json: bool = False
    """print one JSON list: log, epochs, best_epoch, top1_error, top5_error"""
