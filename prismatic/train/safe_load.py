"""Reading of checkpoints without running what is in them: a pickle may name any function, and these name only data."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

DATA_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # Python 3.13
}


class _DataUnpickler(pickle.Unpickler):
    """Builds the classes of a checkpoint's metadata, and refuses any other name."""

    def find_class(self, module: str, name: str) -> Any:
        known = name in DATA_CLASSES.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its metadata names {module}.{name}, which no checkpoint needs")


class SafeReader(FileSystemReader):
    """Reads the parts of a checkpoint in a folder; torch's own reader unpickles the metadata without restriction."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return the metadata. Raises UnpicklingError if it is anything else."""
        with self.fs.create_stream(self.fs.concat_path(self.path, ".metadata"), "rb") as stream:
            metadata = _DataUnpickler(stream).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("its metadata is not that of a checkpoint")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class SafePlanner(DefaultLoadPlanner):
    """Loads what is no tensor by torch's restricted unpickler; the base class unpickles it without restriction."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Load one value. Raises UnpicklingError if it holds anything but numbers, texts, containers and tensors."""
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)
