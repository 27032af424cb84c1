"""Read the outline of an ONNX file: inputs, outputs, and files that it names. No other library reads the file before.

Runtimes open each file that a graph names for its weights. A graph from the Hub could name any file of its reader, so that
names are checked here first. The numbers of fields are those of `onnx.proto` (https://github.com/onnx/onnx, version 1.18).
Weights are skipped, so that a file of half a gigabyte takes some milliseconds.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NUMBER_TYPES = {1: "float32", 10: "float16"}  # types of inputs and outputs that are supported here, by their numbers
KNOWN_DOMAINS = frozenset(  # of operators that onnxruntime itself has
    ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc")
)
_MAX_DEPTH = 64  # graphs inside graphs; exporters write a few
_EXTERNAL = 1  # value of `data_location` for weights in another file
_ENUM_BITS = (1 << 32) - 1  # readers of protobuf cut values of enumerations to 32 bits
_MAX_FIELD_NUMBER = (1 << 29) - 1  # of protobuf; some readers cut larger ones to this, and see another field


@dataclass(frozen=True)
class GraphValue:
    """An input or output of a graph.

    Attributes:
        name: Its name.
        number_type: Name of its number type as numpy has it; `None` for another type than [`NUMBER_TYPES`].
        shape: Its axes: a length, or `None` for any length.
    """

    name: str
    number_type: str | None
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Return the name and the axes, such as `images (?, 3, 322, 322)`."""
        return f"{self.name} ({', '.join('?' if length is None else str(length) for length in self.shape)})"


@dataclass
class OnnxOutline:
    """The parts of an ONNX file that decide how it is run.

    Attributes:
        inputs: Inputs of the graph, without weights.
        outputs: Outputs of the graph.
        external_files: Names of files with weights, wherever a tensor names one.
        domains: Domains of the operators.
        function_domains: Domains of operators that the file itself defines.
    """

    inputs: list[GraphValue] = field(default_factory=list)
    outputs: list[GraphValue] = field(default_factory=list)
    external_files: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    function_domains: set[str] = field(default_factory=set)

    @property
    def unknown_domains(self) -> list[str]:
        """Domains of operators that need a library of another program."""
        return sorted(self.domains - self.function_domains - KNOWN_DOMAINS)


def read_outline(path: Path) -> OnnxOutline:
    """Read the outline of an ONNX file.

    Raises:
        ValueError: If the file is not an ONNX model, or damaged.
    """
    outline = OnnxOutline()
    try:
        with path.open("rb") as file:
            _read_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), outline)
        if not outline.inputs or not outline.outputs:
            raise ValueError("it has no graph with an input and an output")
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not an ONNX model, or damaged ({error}). Download or export it again.") from error
    return outline


def _read_model(view: memoryview, outline: OnnxOutline) -> None:
    for number, value in _fields(view):
        if number == 7:  # graph
            weights: set[str] = set()
            inputs: list[GraphValue] = []
            for part, content in _fields(_message(value)):
                if part == 5:  # initializer: also an input in files of old versions
                    weights |= {_text(name) for key, name in _fields(_message(content)) if key == 8}
                elif part in (11, 12):
                    (inputs if part == 11 else outline.outputs).append(_read_value(_message(content)))
            outline.inputs += [graph_input for graph_input in inputs if graph_input.name not in weights]
            _read_graph(_message(value), outline, 0)
        elif number == 20:  # training_info
            for part, content in _fields(_message(value)):
                if part in (1, 2):  # initialization, algorithm
                    _read_graph(_message(content), outline, 0)
        elif number == 25:  # functions
            for part, content in _fields(_message(value)):
                if part == 7:  # node
                    _read_node(_message(content), outline, 0)
                elif part == 10:  # domain
                    outline.function_domains.add(_text(content))
                elif part == 11:  # attribute_proto
                    _read_attribute(_message(content), outline, 0)


def _read_graph(view: memoryview, outline: OnnxOutline, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"graphs are nested more than {_MAX_DEPTH} times")
    for number, value in _fields(view):
        if number == 1:  # node
            _read_node(_message(value), outline, depth)
        elif number == 5:  # initializer
            _read_tensor(_message(value), outline)
        elif number == 15:  # sparse_initializer
            _read_sparse_tensor(_message(value), outline)


def _read_node(view: memoryview, outline: OnnxOutline, depth: int) -> None:
    domain = ""
    for number, value in _fields(view):
        if number == 5:  # attribute
            _read_attribute(_message(value), outline, depth)
        elif number == 7:  # domain
            domain = _text(value)
    outline.domains.add(domain)


def _read_attribute(view: memoryview, outline: OnnxOutline, depth: int) -> None:
    for number, value in _fields(view):
        if number in (5, 10):  # t, tensors
            _read_tensor(_message(value), outline)
        elif number in (6, 11):  # g, graphs
            _read_graph(_message(value), outline, depth + 1)
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            _read_sparse_tensor(_message(value), outline)


def _read_sparse_tensor(view: memoryview, outline: OnnxOutline) -> None:
    for number, value in _fields(view):
        if number in (1, 2):  # values, indices
            _read_tensor(_message(value), outline)


def _read_tensor(view: memoryview, outline: OnnxOutline) -> None:
    """Read the file that holds a tensor's numbers; a tensor that says two things counts as outside of this file."""
    names, is_external = set(), False
    for number, value in _fields(view):
        if number == 13:  # external_data
            entry = list(_fields(_message(value)))
            if any(part == 1 and _text(key) == "location" for part, key in entry):
                names |= {_text(location) for part, location in entry if part == 2}
        elif number == 14:  # data_location
            is_external = is_external or (isinstance(value, int) and value & _ENUM_BITS == _EXTERNAL)
    if is_external:
        if not names:
            raise ValueError("the weights of a tensor are in another file, which is not named")
        outline.external_files |= names


def _read_value(view: memoryview) -> GraphValue:
    name, number_type = "", None
    shape: list[int | None] = []
    for number, value in _fields(view):
        if number == 1:  # name
            name = _text(value)
        elif number == 2:  # type
            tensor_types = [_message(content) for part, content in _fields(_message(value)) if part == 1]
            for part, content in (entry for tensor_type in tensor_types for entry in _fields(tensor_type)):
                if part == 1 and isinstance(content, int):  # elem_type
                    number_type = NUMBER_TYPES.get(content)
                elif part == 2:  # shape
                    shape = [_read_length(_message(axis)) for key, axis in _fields(_message(content)) if key == 1]
    return GraphValue(name, number_type, tuple(shape))


def _read_length(view: memoryview) -> int | None:
    lengths = [value for number, value in _fields(view) if number == 1 and isinstance(value, int)]  # dim_value
    return lengths[-1] if lengths and lengths[-1] > 0 else None


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the numbers and values of the fields of a message: whole numbers, and the bytes of all others.

    Raises:
        ValueError, IndexError: If the message is damaged.
    """
    position, end = 0, len(view)
    while position < end:
        key, position = _varint(view, position)
        kind = key & 7
        if not 1 <= key >> 3 <= _MAX_FIELD_NUMBER:
            raise ValueError(f"a field has the number {key >> 3}")
        if kind == 0:
            value, position = _varint(view, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _varint(view, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if length > end - position:
            raise ValueError("it ends too early")
        yield key >> 3, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """Return the whole number at a position, and the position after it."""
    number = shift = 0
    while True:
        byte = view[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands in place of a message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()
