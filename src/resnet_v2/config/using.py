"""Settings of the commands that use trained networks."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from resnet_v2.config.fields import (
    Anywhere,
    CountOrNone,
    Endings,
    OnError,
    OnGpus,
    Picture,
    Place,
    Range,
    Threads,
    Usual,
    Workers,
    parse_numbers,
    settings,
)
from resnet_v2.errors import SettingError

# The types of settings that several commands have, each with its help.
EngineName = Annotated[
    Literal["torch", "onnx", "openvino"], arg(help="what runs the network; onnx and openvino use the CPU")
]
Precision = Annotated[
    Literal["float32", "bfloat16", "int8", "auto"],
    arg(
        help="bfloat16 is faster on devices that compute in it and less exact; auto: bfloat16 on these, else float32; "
        "int8 needs `resnet-v2 quantize` first"
    ),
]
Epoch = Annotated[
    int | Literal["best", "latest"] | None,
    Range(0, 10**6),
    Usual("the last one"),
    arg(help="epoch of the checkpoint, best or latest"),
]
Prefix = Annotated[str, arg(help="start of the checkpoint's name (default: the network that ships)")]
Crop = Annotated[str, arg(help="side of the centre crop in pixels, several as 224,320 (default: the checkpoint's)")]
Resize = Annotated[
    str, arg(help="shorter side in pixels before cropping, one for all crops or one for each (default: as packed)")
]
BatchSize = Annotated[int, Range(1, 10**6), arg(help="images per step")]
Gpu = Annotated[str, arg(help="the GPU to use; '' is the CPU")]
# Of commands whose people think of one GPU.
OneGpu = Annotated[Gpu, arg(aliases=["--gpu"])]
Synset = Annotated[
    Path | None, Usual("the names saved in the checkpoint"), arg(help="file with one class name per line")
]
Device = Annotated[str, arg(help="torch device; comes before --gpus")]
SIDES = Range(1, 65535)


class _Sized(OnGpus):
    """What commands share whose crops, sides and GPUs are lists."""

    crop: str
    resize: str

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """`"224,320"` and `"256"` or `"256,320"` -> pairs of a crop and a shorter side, 0 where nothing is said.

        Raises SettingError where the sides are neither one for all crops nor one for each.
        """
        crops = parse_numbers(self.crop, int, "crop", SIDES) or (0,)
        sides = parse_numbers(self.resize, int, "resize", SIDES) or (0,)
        sides = sides * len(crops) if len(sides) == 1 else sides
        if len(sides) != len(crops):
            raise SettingError(
                f"`resize` {self.resize} has {len(sides)} sizes for {len(crops)} crops; give one for each."
            )
        return list(zip(crops, sides, strict=True))


@settings
class EvaluateConfig(_Sized):
    """Loss and errors of checkpoints over a record, every image counted once."""

    rec: Place
    """the .rec to evaluate on, several as a.rec,b.rec or 'val_*.rec', or its address such as s3://bucket/val.rec"""
    prefix: tuple[str, ...] = ("",)
    """start of the checkpoint's name (model/resnet-cifar10-20); several: a table; a,b: their mean answer"""
    epoch: Epoch = None
    crop: Crop = ""
    resize: Resize = ""
    ten_crop: bool = False
    """average the corners, the centre and their mirror images"""
    table: bool = False
    """print a Markdown table: network, crop, top-1, top-5"""
    per_class: bool = False
    """print the error of every class, the worst first; of labels multi its average precision"""
    confusion: Picture = None
    """draw the confusion matrix into this picture (.png, .svg, .pdf)"""
    mxnet_count: CountOrNone = 0
    """MXNet's batch size: count the last batch's filling too, as its logs do (50,176 of 50,000 images at 256)"""
    engine: EngineName = "torch"
    precision: Precision = "float32"
    batch_size: BatchSize = 128
    gpus: Gpu = "0"
    device: Device = ""
    workers: Workers = "auto"
    """processes that read images, 0: none beside this one; auto: by cores and memory"""
    on_error: OnError = "stop"
    """a record that cannot be read: stop, or name it and leave it out (up to one in a hundred)"""
    json: bool = False
    """print JSON: images, loss, top1_error, top5_error and more (docs/using.md); a list for several evaluations"""


@settings
class CompareConfig(_Sized):
    """ResNet-v1 against ResNet-v2, or any two networks, on your own data: a table, and whether chance explains it."""

    first: Annotated[Positional[str], arg(metavar="FIRST")]
    """prefix of the first network (v1), such as model/resnet-v1-cifar10-20; several separated by commas"""
    second: Annotated[Positional[str], arg(metavar="SECOND")]
    """prefix of the second network (v2); as many as of the first, in the same order"""
    rec: Place
    """the .rec to evaluate on, several as a.rec,b.rec or 'val_*.rec', or its address such as s3://bucket/val.rec"""
    crop: Crop = ""
    resize: Resize = ""
    batch_size: BatchSize = 128
    gpus: Gpu = "0"
    device: Device = ""


@settings
class PredictConfig(OnGpus):
    """Name what is in pictures, with the preprocessing that evaluation uses; exit status 1 when one was unreadable."""

    img: tuple[str, ...]
    """image files, folders of them, .rec files or 'val_*.rec', or - for standard input: an image, or paths by line"""
    prefix: str = ""
    """start of the checkpoint's name (default: the network that ships); a,b: the mean answer of several"""
    epoch: Epoch = None
    gpus: OneGpu = "0"
    device: Device = ""
    engine: EngineName = "torch"
    precision: Precision = "float32"
    synset: Synset = None
    top: Annotated[int, Range(1, 10**6)] = 5
    """how many classes to name, of tasks for each; of labels multi every class of 50 % or more is named"""
    json: bool = False
    """print one JSON list with an object for each image; comes before --format"""
    format: Literal["text", "jsonl", "csv"] = "text"
    """jsonl: one JSON object per image and line; csv: one row per class"""
    batch_size: BatchSize = 32
    threads: Threads = 0
    """threads that read pictures, 0: one per core"""


@settings
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


@settings
class CardConfig:
    """Describe a checkpoint in Markdown, as model hubs do; with --out a folder that is ready to be pushed to one."""

    prefix: Prefix = ""
    epoch: Epoch = None
    out: Path | None = None
    """folder for README.md, config.json and model.safetensors (default: the Markdown is printed)"""
    rec: Annotated[Path | None, Anywhere()] = None
    """a .rec to evaluate on, with an errors-by-class section (default: the figures saved in the checkpoint)"""
    data_name: str = ""
    """what the data set is called (default: the run's --data-type)"""
    license: str = ""
    """licence of the weights, such as apache-2.0 (default: none is stated)"""
    note: str = ""
    """a paragraph about data and licence"""
    half: bool = False
    """round weights to 16 bits: half the size, errors measured on them"""


@settings
class ExportConfig:
    """Write the network of a checkpoint for other systems, or MXNet's in our form."""

    prefix: str
    """start of the checkpoint's name; MXNet's PREFIX-0000.params is found too"""
    to: Literal["onnx", "torch", "mxnet", "gluon", "safetensors"]
    """onnx: PREFIX-0030.onnx, PREFIX-best.onnx; torch: .pt2 (torch.export); mxnet, gluon: .params, JSON; safetensors:
    weights"""
    epoch: Epoch = None
    out: str = ""
    """start of the names to write (default: the checkpoint's)"""

    def __post_init__(self) -> None:
        """Refuse an empty prefix, which elsewhere means the network of the package: nothing is written beside that."""
        if not self.prefix:
            raise SettingError("`prefix` is empty; give the start of a checkpoint's name.")


@settings
class PlotConfig:
    """Draw training curves from logs, ours or MXNet's, and print each one's best epoch."""

    logs: tuple[str, ...]
    """log files, separated by blanks or commas"""
    out: Annotated[Path, Endings((".png", ".svg", ".pdf", ".html"))] = Path("training-curve.png")
    """picture to write; the ending chooses the format: .png, .svg, .pdf, or .html for an interactive page"""
    metric: Literal["top1", "top5"] = "top1"
    """error to draw; an .html shows both and opens with this one"""
    follow: bool = False
    """draw again whenever a log has grown, until Ctrl-C; an .html loads itself again"""
    json: bool = False
    """print one JSON list: log, epochs, best_epoch, top1_error, top5_error"""
