"""Check a pickle of weights before torch opens it: the memory that it would take is bounded by the size of its file.

torch builds tensors alone of a pickle, and calls a few functions for them. Some reserve as much memory as the file says, such
as `bytearray(n)` or a storage of n numbers. Here the opcodes are followed without building anything: a call is recorded, and
the storages are compared with the bytes that the file has for them. Layout of the files: `torch/serialization.py` of torch 2.
"""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

_LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys of storages; their numbers follow
_NUMBER_BYTES = {"Half": 2, "BFloat16": 2, "Float": 4, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16} | {
    **{"Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Int": 4, "Long": 8},
    **{"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1, "Untyped": 1},
}
# functions and classes that torch calls while it builds weights, and that take no more memory than their arguments
_CALLED = (
    *("collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set", "builtins.complex"),
    *("__builtin__.complex", "torch.Size", "torch.device", "torch.serialization._get_layout", "torch.nn.parameter.Parameter"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch._utils._rebuild_qtensor"),
    *("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_meta_tensor_no_storage"),
    *("torch._tensor._rebuild_from_type_v2", "_codecs.encode"),
)
# opcodes that torch does not write; some reserve memory before they read
_UNUSED = (
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
)


class MoreThanWeightsError(ValueError):
    """A pickle calls something else than the functions that build weights."""


def check_outline(path: Path, ignored: tuple[str, ...]) -> None:
    """Check that a pickle of weights takes no more memory than its file has bytes.

    Args:
        path: A file that torch wrote, or a plain pickle.
        ignored: Names of functions that the reader replaces by placeholders.

    Raises:
        MoreThanWeightsError: If it calls other functions than those that build weights.
        Exception: If it is damaged: errors of many types, as those of the pickle's own reader.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        if is_zip:
            _check_zip(file, ignored)
        else:
            _check_legacy(file, ignored)


def _check_zip(file: BinaryIO, ignored: tuple[str, ...]) -> None:
    """Check the archive that torch writes since version 1.6: stored entries, one of them the pickle, one for each storage."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        sizes = {entry.filename: entry.file_size for entry in entries}
        pickles = [name for name in sizes if name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(sizes) != len(entries):
            raise ValueError("the archive has no single pickle, or two entries of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(sizes.values()) > size:
            raise ValueError("its entries are compressed or overlap, which torch does not write")
        outline = _Outline(io.BytesIO(archive.read(pickles[0])), sizes[pickles[0]], ignored)
        outline.load()
    folder = pickles[0].removesuffix("data.pkl")
    for key, stated in outline.storages.items():
        if sizes.get(f"{folder}data/{key}") != stated:
            raise ValueError(f"the storage {key[:40]} has {sizes.get(f'{folder}data/{key}', 0):,} bytes, not {stated:,}")


def _check_legacy(file: BinaryIO, ignored: tuple[str, ...]) -> None:
    """Check a sequence of pickles, which are followed by the numbers of the storages; or a single pickle."""
    size = os.fstat(file.fileno()).st_size
    stated = 0
    for number in range(_LEGACY_PICKLES):
        if number and file.tell() == size:
            break
        outline = _Outline(_BoundedFile(file, size), size, ignored)
        outline.load()
        stated += sum(outline.storages.values())
    if stated > size:
        raise ValueError(f"its storages have {stated:,} bytes, and the file {size:,}")


class _BoundedFile:
    """A file whose `read` reserves no memory for bytes that the file does not have."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """Return exactly `count` bytes."""
        if not 0 <= count <= self._size - self._file.tell():
            raise EOFError("it ends too early")
        return self._file.read(count)


class _Recorded:
    """A name in a pickle, or the object that a call of it would have made."""

    def __init__(self, outline: "_Outline", name: str) -> None:
        self._outline, self.name = outline, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Record a call, after checking that it takes no memory but that of its arguments."""
        if self.name not in _CALLED and not self.name.startswith(self._outline.ignored):
            raise MoreThanWeightsError(f"it calls {self.name[:80]}")
        if self.name.endswith("OrderedDict"):
            return dict(*arguments)
        if self.name == "_codecs.encode":
            self._outline.count(len(arguments[0]))
        return _Recorded(self._outline, "an object")

    def __setstate__(self, state: Any) -> None:
        """Accept any state, which was read from the file."""

    def update(self, values: Any) -> None:
        """Accept the attributes of an object."""

    __setitem__ = append = extend = add = lambda self, *arguments: None


class _Outline(pickle._Unpickler):  # the one in Python keeps its memo in a dictionary: a large number in a file costs nothing
    """A reader that follows the opcodes of a pickle, and builds lists, tables, texts and numbers alone.

    Attributes:
        storages: Bytes of each storage that the pickle names, by its key.
    """

    def __init__(self, file: Any, size: int, ignored: tuple[str, ...]) -> None:
        super().__init__(file, encoding="utf-8")
        self.ignored = ignored
        self.storages: dict[str, int] = {}
        self._rest = size  # bytes that calls may copy

    def count(self, size: int) -> None:
        """Count bytes that a call copies: a text that is copied thousands of times takes more memory than the file."""
        self._rest -= size
        if self._rest < 0:
            raise ValueError("it copies more bytes than it has")

    def find_class(self, module: str, name: str) -> Any:
        """Return a record of a name, whatever it is: calls of it are checked."""
        return _Recorded(self, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Note the size of a storage."""
        kind, storage, key, _, count = pid[:5]
        number_bytes = _NUMBER_BYTES.get(storage.name.rpartition(".")[2].removesuffix("Storage"))
        if kind not in ("storage", b"storage") or number_bytes is None or type(count) is not int or count < 0:
            raise ValueError("a storage is of an unknown kind")
        if self.storages.setdefault(str(key), count * number_bytes) != count * number_bytes:
            raise ValueError(f"the storage {str(key)[:40]} has two sizes")
        return _Recorded(self, "a storage")

    def load_build(self) -> None:
        """Drop the state of an object."""
        self.stack.pop()  # type: ignore[attr-defined]

    def load_newobj(self) -> None:
        """Call a class, as another opcode does."""
        arguments, called = self.stack.pop(), self.stack.pop()  # type: ignore[attr-defined]
        self.stack.append(called(*arguments))  # type: ignore[attr-defined]

    def load_refused(self) -> None:
        """Refuse an opcode that torch does not write."""
        raise ValueError("it has an opcode that torch does not write")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.NEWOBJ[0]: load_newobj,
        **dict.fromkeys((code[0] for code in _UNUSED), load_refused),
    }
