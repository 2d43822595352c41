"""Models from the Hugging Face hub, through its own client, which keeps what it fetched."""

from pathlib import Path

from nelbo.errors import NelboError
from nelbo.interop.optional import installed

_FILES = ["*.json", "*.safetensors", "*.bin", "README.md"]


def download(name: str) -> Path:
    """Returns the local folder of a model on the hub, fetched unless it is there already.

    Args:
        name: Its id, ``owner/name``.

    Raises:
        NelboError: If huggingface_hub is not installed, or there is no such model or no connection.
    """
    library = installed("huggingface_hub", "hub")
    try:
        return Path(library.snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # Its own errors, those of its HTTP client, and those of the disk.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NelboError(
            f"no model {name!r}: it is no folder, and the hub does not give it ({reason:.150}); check the name and the "
            f"connection, or download it elsewhere and give the folder"
        ) from None
