"""`python -m resnet_v2` is the command `resnet-v2`."""

import sys

from resnet_v2.cli import main

if __name__ == "__main__":
    sys.exit(main())
