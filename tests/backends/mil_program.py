"""Run a program of Core ML by torch, operation by operation, as Apple's reference of the operations defines them.

It shows whether the converter kept the meaning of the network; it does not show how a device computes it.
"""

import numpy as np
import torch
from torch.nn import functional


def run_program(program, **inputs):
    """Return the outputs of the function `main`, by name."""
    main = program.functions["main"]
    values = {name: torch.as_tensor(value) for name, value in inputs.items()}
    for operation in main.operations:
        if operation.op_type == "const":
            continue
        arguments = {name: _read(value, values) for name, value in operation.inputs.items()}
        results = _OPERATIONS[operation.op_type](**arguments)
        for variable, result in zip(operation.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            values[variable.name] = result
            assert tuple(result.shape) == tuple(variable.shape), operation
    return {variable.name: values[variable.name] for variable in main.outputs}


def _read(value, values):
    """Return an argument: tensors as torch tensors, numbers and words as Python's."""
    if isinstance(value, list | tuple):
        return [_read(entry, values) for entry in value]
    if value.name in values:
        return values[value.name]
    constant = value.val
    if isinstance(constant, np.ndarray):
        return torch.from_numpy(np.array(constant))
    return constant.item() if hasattr(constant, "item") else constant


def _ints(tensor):
    return [int(number) for number in tensor]


def _conv(x, weight, strides, pad_type, dilations, groups, bias=None, pad=None):
    assert pad_type in ("valid", "custom")
    padding = _ints(pad) if pad_type == "custom" else [0] * 4
    x = functional.pad(x, (padding[2], padding[3], padding[0], padding[1]))
    return functional.conv2d(x, weight, bias, _ints(strides), 0, _ints(dilations), groups)


def _slice_by_index(x, begin, end, begin_mask=None, end_mask=None, stride=None, squeeze_mask=None):
    assert stride is None or all(step == 1 for step in _ints(stride))
    axes = []
    for axis in range(x.ndim):
        start = None if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        stop = None if end_mask is not None and end_mask[axis] else int(end[axis])
        axes.append(int(begin[axis]) if squeeze_mask is not None and squeeze_mask[axis] else slice(start, stop))
    return x[tuple(axes)]


def _resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners):
    assert coordinates_mode == "normalized_minus_one_to_one"
    return functional.grid_sample(x, coordinates, sampling_mode, padding_mode, align_corners)


def _gather(x, indices, axis, batch_dims=0, validate_indices=False):
    assert batch_dims == 0
    chosen = x.index_select(axis, indices.flatten().long())
    return chosen.unflatten(axis, tuple(indices.shape)) if indices.ndim != 1 else chosen


def _matmul(x, y, transpose_x=False, transpose_y=False):
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


_OPERATIONS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "maximum": lambda x, y: torch.maximum(x, torch.as_tensor(y)),
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "concat": lambda values, axis, interleave=False: torch.cat(values, axis),
    "conv": _conv,
    "exp": lambda x: x.exp(),
    "expand_dims": lambda x, axes: x.unsqueeze(*_ints(axes)),
    "fill_like": lambda ref_tensor, value: torch.full_like(ref_tensor, value),
    "gather": _gather,
    "gelu": lambda x, mode: functional.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode]),
    "layer_norm": lambda x, axes, gamma, beta, epsilon: functional.layer_norm(x, x.shape[-1:], gamma, beta, epsilon),
    "linear": lambda x, weight, bias=None: functional.linear(x, weight, bias),
    "log": lambda x, epsilon: (x + epsilon).log(),
    "matmul": _matmul,
    "reduce_l2_norm": lambda x, axes, keep_dims: x.norm(dim=_ints(axes), keepdim=keep_dims),
    "reduce_max": lambda x, axes, keep_dims: x.amax(_ints(axes), keepdim=keep_dims),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(_ints(axes), keepdim=keep_dims),
    "reduce_min": lambda x, axes, keep_dims: x.amin(_ints(axes), keepdim=keep_dims),
    "relu": lambda x: x.relu(),
    "resample": _resample,
    "reshape": lambda x, shape: x.reshape(_ints(shape)),
    "sigmoid": lambda x: x.sigmoid(),
    "slice_by_index": _slice_by_index,
    "softmax": lambda x, axis: x.softmax(axis),
    "split": lambda x, split_sizes, axis: x.split(_ints(split_sizes), axis),
    "squeeze": lambda x, axes: x.squeeze(tuple(_ints(axes))),
    "stack": lambda values, axis: torch.stack(values, axis),
    "tile": lambda x, reps: x.tile(_ints(reps)),
    "transpose": lambda x, perm: x.permute(_ints(perm)),
}
