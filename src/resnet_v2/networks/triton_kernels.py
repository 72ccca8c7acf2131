"""The Triton kernels of `kernels`: BatchNorm and ReLU over rows (N x H x W) of channels that lie next to each other.

Only `kernels` imports this, and only for a GPU: Triton is not there on every machine, and its import takes time.

A program works on tiles, `width` channels wide. What is summed over all rows is summed in two kernels: first over each
block of `tiles` tiles, one below the other, then over the blocks. Both orders follow from the shape alone and nothing
is added up by atomics, so the same input gives the same bits every time.
"""

# A kernel is no Python: Triton compiles it, and knows tensors where mypy sees numbers.
# mypy: ignore-errors

import triton
import triton.language as tl

# Elements of a tile: 16 for each thread of four warps, so that registers leave room for many programs at once.
TILE = tl.constexpr(2048)
# Blocks that are merged at once, and the channels of a program that does it: 32 bytes of a line, what memory delivers.
MOST_BLOCKS = tl.constexpr(1024)
MERGED = tl.constexpr(8)


@triton.jit
def _block(channels, width: tl.constexpr):
    """This program's block of rows, and its channels. Neighbours take the same rows, so that these are read whole."""
    columns = tl.cdiv(channels, width)
    channel = tl.program_id(0) % columns * width + tl.arange(0, width)
    # What is counted in rows is int64, since rows x channels can exceed 2**31; inside a tile int32 is enough.
    return (tl.program_id(0) // columns).to(tl.int64), channel


@triton.jit
def _tile(start, rows, channel, channels, width: tl.constexpr):
    """Where the tile that starts at a row lies in memory, and which of its places are inside the tensor."""
    row = tl.arange(0, TILE // width)
    mask = (row < rows - start)[:, None] & (channel < channels)[None, :]
    return start * channels + (row[:, None] * channels + channel[None, :]), mask


@triton.jit
def _row(pointer, channel, channels):
    return tl.load(pointer + channel, channel < channels, other=0.0)[None, :]


@triton.jit
def _rows(mean, deviation, weight, bias, channel, channels):
    mean, deviation = _row(mean, channel, channels), _row(deviation, channel, channels)
    return mean, deviation, _row(weight, channel, channels), _row(bias, channel, channels)


@triton.jit
def _affine(value, mean, deviation, weight, bias):
    """Before and after gamma and beta: one expression, so that the backward pass finds the ReLU's mask as it was."""
    normal = (value - mean) * deviation
    return normal, normal * weight + bias


@triton.jit(do_not_specialize=["rows", "tiles"])
def partial_statistics(x, parts, rows, channels, tiles, width: tl.constexpr):
    """Of every block the mean, and the sum of squared distances from it: blocks x 2 x channels."""
    block, channel = _block(channels, width)
    height: tl.constexpr = TILE // width
    # Welford's recurrence in every place of the tile for itself: no difference of squares, and no exchange between
    # threads before the last tile.
    mean = tl.zeros((height, width), tl.float32)
    squares = tl.zeros((height, width), tl.float32)
    for tile in range(tiles):
        place, mask = _tile((block * tiles + tile) * height, rows, channel, channels, width)
        value = tl.load(x + place, mask, other=0.0).to(tl.float32)
        distance = tl.where(mask, value - mean, 0.0)
        mean += distance * (1.0 / (tile + 1))
        squares += distance * (value - mean)
    # Chan's formula for all places at once; only in the last block they have seen different numbers of rows.
    left = rows - block * tiles * height
    count = tl.minimum((left - tl.arange(0, height) + height - 1) // height, tiles).to(tl.float32)[:, None]
    block_mean = tl.sum(count * mean, 0) / tl.minimum(left, tiles * height).to(tl.float32)
    shift = mean - block_mean[None, :]
    parts += block * 2 * channels + channel
    tl.store(parts, block_mean, channel < channels)
    tl.store(parts + channels, tl.sum(squares + count * shift * shift, 0), channel < channels)


@triton.jit(do_not_specialize=["rows", "blocks", "length"])
def merge_statistics(parts, running_mean, running_var, mean, deviation, rows, channels, blocks, length, momentum, eps):
    """The batch's statistics from those of its blocks, which have `length` rows each but the last."""
    channel, block = tl.program_id(0) * MERGED + tl.arange(0, MERGED), tl.arange(0, MOST_BLOCKS)
    inside = channel < channels
    mask = (block < blocks)[:, None] & inside[None, :]
    parts += block[:, None] * 2 * channels + channel[None, :]
    count = tl.where(block < blocks, tl.minimum(rows - block.to(tl.int64) * length, length), 0)
    count = count.to(tl.float32)[:, None]
    block_mean = tl.load(parts, mask, other=0.0)
    batch_mean = tl.sum(count * block_mean, 0) / rows
    shift = block_mean - batch_mean[None, :]
    squares = tl.sum(tl.load(parts + channels, mask, other=0.0) + count * shift * shift, 0)
    tl.store(mean + channel, batch_mean, inside)
    tl.store(deviation + channel, tl.div_rn(1.0, tl.sqrt_rn(squares / rows + eps)), inside)
    for_mean = (1.0 - momentum) * tl.load(running_mean + channel, inside) + momentum * batch_mean
    for_var = (1.0 - momentum) * tl.load(running_var + channel, inside) + momentum * (squares / (rows - 1))
    tl.store(running_mean + channel, for_mean, inside)
    tl.store(running_var + channel, for_var, inside)


@triton.jit(do_not_specialize=["rows"])
def normalise(x, y, mean, deviation, weight, bias, rows, channels, relu: tl.constexpr, width: tl.constexpr):
    """A tile of the output."""
    block, channel = _block(channels, width)
    place, mask = _tile(block * (TILE // width), rows, channel, channels, width)
    mean, deviation, weight, bias = _rows(mean, deviation, weight, bias, channel, channels)
    value = tl.load(x + place, mask, other=0.0).to(tl.float32)
    _, output = _affine(value, mean, deviation, weight, bias)
    if relu:
        # Not `maximum`, which would make 0 of NaN.
        output = tl.where(output <= 0.0, 0.0, output)
    tl.store(y + place, output.to(y.dtype.element_ty), mask)


@triton.jit
def _slope(gradient, x, mean, deviation, weight, bias, place, mask, relu: tl.constexpr):
    """The gradient behind the ReLU and the normalised input of a tile's places."""
    value = tl.load(x + place, mask, other=0.0).to(tl.float32)
    slope = tl.load(gradient + place, mask, other=0.0).to(tl.float32)
    normal, output = _affine(value, mean, deviation, weight, bias)
    if relu:
        slope = tl.where(output <= 0.0, 0.0, slope)
    return slope, normal


@triton.jit(do_not_specialize=["rows", "tiles"])
def partial_gradients(
    gradient, x, mean, deviation, weight, bias, parts, rows, channels, tiles, relu: tl.constexpr, width: tl.constexpr
):
    """Every block's share in the gradients of gamma and beta: blocks x 2 x channels."""
    block, channel = _block(channels, width)
    height: tl.constexpr = TILE // width
    mean, deviation, weight, bias = _rows(mean, deviation, weight, bias, channel, channels)
    by_weight = tl.zeros((height, width), tl.float32)
    by_bias = tl.zeros((height, width), tl.float32)
    for tile in range(tiles):
        place, mask = _tile((block * tiles + tile) * height, rows, channel, channels, width)
        slope, normal = _slope(gradient, x, mean, deviation, weight, bias, place, mask, relu)
        by_weight += slope * normal
        by_bias += slope
    parts += block * 2 * channels + channel
    tl.store(parts, tl.sum(by_weight, 0), channel < channels)
    tl.store(parts + channels, tl.sum(by_bias, 0), channel < channels)


@triton.jit(do_not_specialize=["blocks"])
def merge_gradients(parts, gradient_weight, gradient_bias, channels, blocks):
    """The gradients of gamma and beta from every block's share."""
    channel, block = tl.program_id(0) * MERGED + tl.arange(0, MERGED), tl.arange(0, MOST_BLOCKS)
    inside = channel < channels
    mask = (block < blocks)[:, None] & inside[None, :]
    parts += block[:, None] * 2 * channels + channel[None, :]
    tl.store(gradient_weight + channel, tl.sum(tl.load(parts, mask, other=0.0), 0), inside)
    tl.store(gradient_bias + channel, tl.sum(tl.load(parts + channels, mask, other=0.0), 0), inside)


@triton.jit(do_not_specialize=["rows"])
def input_gradient(
    gradient,
    x,
    mean,
    deviation,
    weight,
    bias,
    by_weight,
    by_bias,
    out,
    rows,
    channels,
    relu: tl.constexpr,
    width: tl.constexpr,
):
    """A tile of the gradient of x."""
    block, channel = _block(channels, width)
    place, mask = _tile(block * (TILE // width), rows, channel, channels, width)
    mean, deviation, weight, bias = _rows(mean, deviation, weight, bias, channel, channels)
    by_weight, by_bias = _row(by_weight, channel, channels), _row(by_bias, channel, channels)
    slope, normal = _slope(gradient, x, mean, deviation, weight, bias, place, mask, relu)
    slope -= (by_bias + normal * by_weight) * (1.0 / rows)
    tl.store(out + place, (slope * (weight * deviation)).to(out.dtype.element_ty), mask)
