"""Resizing a part of an image as PIL's antialiased bilinear filter does, in compiled code.

A pixel of the result is a mean of the pixels under a triangle around its place in the source, as wide on either side
as the source has pixels to one of the result, and at least one pixel. That is done in two passes, first down the
columns, then along the rows. PIL goes the other way and rounds to whole grey levels in between; this keeps fractions,
so that the two differ by 1 grey level at most. Sums are taken in one order and rounded at each step, never fused or
rearranged for speed: the result is the same to the bit on every processor.

s is the source's pixels to one of the result, K the number of weights of a pixel: 2 where s <= 1, else 2 s rounded up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


@njit(error_model="numpy")
def triangle_weights(length: int, size: int) -> Any:
    """Where each of `size` pixels begins to look at `length` pixels, and its weights. int64 [size], float32 [size, K]

    As PIL's `precompute_coeffs`. Weights that a pixel at the border has no use for are 0, and may lie outside.
    """
    s = length / size
    reach = max(s, 1.0)
    count = max(2, int(np.ceil(2 * s)))
    starts = np.empty(size, np.int64)
    weights = np.zeros((size, count), np.float32)
    for i in range(size):
        centre = (i + 0.5) * s
        first = max(int(centre - reach + 0.5), 0)
        last = min(int(centre + reach + 0.5), length, first + count)
        total = 0.0
        for k in range(last - first):
            total += max(0.0, 1 - abs(first + k + 0.5 - centre) / reach)
        for k in range(last - first):
            weights[i, k] = max(0.0, 1 - abs(first + k + 0.5 - centre) / reach) / total
        starts[i] = first
    return starts, weights


# Indices are unsigned below: numba then emits no code for negative ones, and LLVM makes vectors of the loops.


@njit(error_model="numpy")
def blend_rows(source: Any, begin: int, stride: int, weights: Any, count: int, row: Any) -> None:
    """Down the columns: the sum of `count` rows of `source`, `stride` apart from `begin` on, each times its weight."""
    a = source[begin : begin + count]
    b = source[begin + stride : begin + stride + count]
    last = len(weights)
    while last > 1 and weights[last - 1] == 0:
        last -= 1
    if last == 1:
        u = weights[0]
        for i in range(np.uint64(count)):
            row[i] = u * np.float32(a[i])
        return
    u, v = weights[0], weights[1]
    if last == 2:
        for i in range(np.uint64(count)):
            row[i] = u * np.float32(a[i]) + v * np.float32(b[i])
        return
    c = source[begin + 2 * stride : begin + 2 * stride + count]
    w = weights[2]
    for i in range(np.uint64(count)):
        row[i] = u * np.float32(a[i]) + v * np.float32(b[i]) + w * np.float32(c[i])
    for k in range(3, last):
        a = source[begin + k * stride : begin + k * stride + count]
        u = weights[k]
        for i in range(np.uint64(count)):
            row[i] += u * np.float32(a[i])


def _blend_pixel(context: Any, row: Any, at: Any, weights: Any, begin: Any, taps: Any, line: Any, to: Any) -> Any:
    """Write four bytes to `line[to]` on: half, and the sum over `taps` of row[at + 3 k ...] times weights[begin + k].

    Three of them are a pixel; the fourth, which the next pixel overwrites, makes it one vector operation a tap, which
    numba's compiler does not come to by itself.
    """
    signature = types.void(row, at, weights, begin, taps, line, to)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        row, at, weights, begin, taps, line, to = arguments
        row_data, weight_data, line_data = (
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip(signature.args[0::2][:2] + signature.args[5:6], (row, weights, line), strict=True)
        )
        floats, integers, bytes_ = (ir.VectorType(lane, 4) for lane in (ir.FloatType(), ir.IntType(32), ir.IntType(8)))
        total = cgutils.alloca_once_value(builder, ir.Constant(floats, [0.5] * 4))
        place = cgutils.alloca_once_value(builder, at)
        with cgutils.for_range(builder, taps) as loop:
            weight = builder.load(builder.gep(weight_data, [builder.add(begin, loop.index)]))
            spread = builder.insert_element(ir.Constant(floats, ir.Undefined), weight, ir.IntType(32)(0))
            spread = builder.shuffle_vector(spread, spread, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))
            address = builder.gep(row_data, [builder.load(place)])
            pixels = builder.load(builder.bitcast(address, floats.as_pointer()), align=4)
            product = builder.fmul(spread, pixels)
            builder.store(builder.fadd(builder.load(total), product), total)
            builder.store(builder.add(builder.load(place), at.type(3)), place)
        rounded = builder.trunc(builder.fptosi(builder.load(total), integers), bytes_)
        address = builder.bitcast(builder.gep(line_data, [to]), bytes_.as_pointer())
        builder.store(rounded, address, align=1)
        return context.get_dummy_value()

    return signature, generate


blend_pixel: Any = intrinsic(_blend_pixel)


@njit(error_model="numpy")
def blend_columns(row: Any, starts: Any, weights: Any, mirror: bool, line: Any, begin: int) -> None:
    """Along a row: float32 [3 * width, and zeros] -> uint8 [3 * size], rounded, from right to left if mirrored.

    Written to `line` from `begin` on, and one byte more.
    """
    size, taps = weights.shape
    flat = weights.reshape(-1)
    for x in range(size):
        i = size - 1 - x if mirror else x
        if taps == 2:
            blend_pixel(row, 3 * starts[i], flat, 2 * i, 2, line, begin + 3 * x)
        elif taps == 3:
            blend_pixel(row, 3 * starts[i], flat, 3 * i, 3, line, begin + 3 * x)
        else:
            blend_pixel(row, 3 * starts[i], flat, taps * i, taps, line, begin + 3 * x)


@njit(cache=True, error_model="numpy")
def resize_window(
    source: Any, stride: int, top: int, left: int, height: int, width: int, mirror: bool, image: Any
) -> None:
    """Resize a window of `source` to fill `image`, then mirror it where asked; pixels around the window do not count.

    Args:
        source: uint8 [bytes], contiguous; rows of `stride` bytes, three to a pixel.
        top, left, height, width: the window, in pixels, inside the source.
        image: uint8 [H, W, 3], contiguous, is written.
    """
    rows, row_weights = triangle_weights(height, image.shape[0])
    columns, column_weights = triangle_weights(width, image.shape[1])
    origin = top * stride + 3 * left
    row = np.zeros(3 * (width + column_weights.shape[1]) + 1, np.float32)
    pixels = image.reshape(-1)
    length = 3 * image.shape[1]
    last = (image.shape[0] - 1) * length
    for y in range(image.shape[0] - 1):
        blend_rows(source, origin + rows[y] * stride, stride, row_weights[y], 3 * width, row)
        blend_columns(row, columns, column_weights, mirror, pixels, y * length)
    line = np.empty(length + 1, np.uint8)  # after the last row there is no room for one byte more
    blend_rows(source, origin + rows[-1] * stride, stride, row_weights[-1], 3 * width, row)
    blend_columns(row, columns, column_weights, mirror, line, 0)
    pixels[last:] = line[:-1]
