"""Memory and time of training steps, measured: plain, and by activation plans.

python benchmarks/memory.py memory [--depths 50,200] [--stem cifar] [--levels 2]   peak resident memory, slope in MiB per image
python benchmarks/memory.py time --depth 200 --batch-size 8 [--limits 28,80]        seconds per step, in turns in one process
python benchmarks/memory.py step --depth 200 --batch-size 128 --budget 12GB         one step by the plan for a budget

Each point of `memory` is a process of its own that makes two steps with SGD and momentum; its peak is what the kernel counts
(ru_maxrss). glibc gives every block over 64 KiB a mapping of its own there (MALLOC_MMAP_THRESHOLD_), so that what is freed
leaves the process at once and the figure is that of the tensors; `time` and `step` run with malloc's defaults.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from resnet_v2.networks.budget import Budget, parse_bytes
from resnet_v2.networks.plan import Plan, forecast, uniform_plan
from resnet_v2.networks.resnet import Architecture, ResNet, Stem, initialize
from resnet_v2.networks.search import find_plan, smallest_plan
from resnet_v2.training.optim import fuse_into_backward, nesterov_sgd

MIB = 2**20
Row = dict[str, object]
