"""Where a server listens."""

import os
import socket

from resnet_v2.errors import ResnetError

BACKLOG = 100


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; ResnetError for an address where nothing can."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if not host:  # which is every address
            raise OSError("there is no host")
        if os.name == "posix":  # a server that has just been closed does not block its port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise ResnetError(f"Nothing can listen at {host}, port {port}: {why}; give another.") from None
    return listening


def address(host: str, port: int) -> str:
    """What a person types into a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
