"""The compiled loop: all tier sums of some gradients in one pass over memory. To import it is to compile or load it.

numba compiles `sum_tiers`. Its innermost loop is written in vectors of LLVM, because the bits of a plane are the mask
of a vector as they are: made from plain Python, the same loop took 2.5 times as long. A vector of float32 sums at most
RUN squares before they are added in float64. That bounds the relative error of a sum by RUN / 2^24, and that of a
norm by half of it. The *exact* loop computes in float64, for sums that float32 cannot hold and for products.
All of the loop stands in this file: numba compiles again if this file changes, whatever it imports.
Axis letters: T tensors, R gradients of all tensors, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

CHUNK = 1 << 11  # weights: of each expert in turn, so that the clean expert's and the planes' are still in the cache
LANES = 16  # weights of a vector, and bits of each plane
UNROLL = 2  # vectors of a step, with sums of their own: additions need not wait for each other
STEP = LANES * UNROLL
RUN = 16
SMALLEST = 1e-31  # a smaller sum per weight may have lost squares below the smallest normal float32 number, 1e-38
SUMS = 4  # top, bottom, middle, product
FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = range(4)
DENSE, PAIRS, APART = range(3)
# Columns of a row of `tensors`. Strides are in elements; a mask step of 0 makes all weights read the same bits, none.
FIRST, EXPERTS, ROWS, COLUMNS, ROW_STRIDE, STRIDE, KIND, EXACT, TOP, BOTTOM, MASK_STEP, UNITS = range(12)

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_SINGLE, _DOUBLE = ir.FloatType(), ir.DoubleType()
Value = Any  # of llvmlite, which has no types
Widen = Callable[[Any, Value], Value]
_intrinsic: Any = intrinsic  # which has wrong types


def _vector(kind: Any) -> Any:
    return ir.VectorType(kind, LANES)


def _splat(kind: Any, value: float) -> Value:
    return ir.Constant(_vector(kind), [value] * LANES)


def _from_bfloat16(b: Any, bits: Value) -> Value:
    return b.bitcast(b.shl(b.zext(bits, _vector(_INT32)), _splat(_INT32, 16)), _vector(_SINGLE))


def _from_float16(b: Any, bits: Value) -> Value:
    """Convert by integers, because not every processor has an instruction for it."""
    wide = b.zext(bits, _vector(_INT32))
    magnitude = b.shl(b.and_(wide, _splat(_INT32, 0x7FFF)), _splat(_INT32, 13))
    sign = b.shl(b.and_(wide, _splat(_INT32, 0x8000)), _splat(_INT32, 16))
    finite = b.fmul(b.bitcast(magnitude, _vector(_SINGLE)), _splat(_SINGLE, 2.0**112))  # the exponents' biases differ
    not_finite = b.or_(magnitude, _splat(_INT32, 0x7F800000))
    bad = b.icmp_unsigned(">=", magnitude, _splat(_INT32, 0x0F800000))
    found = b.select(bad, not_finite, b.bitcast(finite, _vector(_INT32)))
    return b.bitcast(b.or_(found, sign), _vector(_SINGLE))


def _same(b: Any, values: Value) -> Value:
    return values


class _Loop:
    """The innermost loop for one type of element: emitted where numba asks for it.

    exact: compute in float64. layout: DENSE if the elements follow each other in memory, PAIRS if every second one is
    meant, or APART.
    """

    def __init__(self, element: Any, size: int, widen: Widen, *, exact: bool, layout: int):
        self.element, self.size, self.widen, self.layout = element, size, widen, layout
        self.work = _DOUBLE if exact else _SINGLE
        self.run = 1 << 30 if exact else RUN * UNROLL

    def emit(self, builder: Any, arguments: Sequence[Value]) -> None:
        """Add up some vectors. arguments: of `add` below."""
        self.b = b = builder
        self.grad, self.clean, self.ahead, self.top, self.bottom, self.mask_step, count, stride, sums = arguments
        self.stride = b.mul(stride, _INT64(self.size))
        totals = b.inttoptr(sums, _vector(_DOUBLE).as_pointer())
        with cgutils.for_range_slice(b, _INT64(0), count, _INT64(self.run), inc=True) as (start, _):
            end = b.add(start, _INT64(self.run))
            self._flush(self._summed(start, b.select(b.icmp_signed("<", end, count), end, count)), totals)

    def _summed(self, start: Value, end: Value) -> list[list[Value]]:
        """Return the sums of the vectors from start to end, [UNROLL][SUMS]."""
        b, before = self.b, self.b.block
        head, body, done = (b.append_basic_block(name) for name in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        place = b.phi(_INT64)
        sums = [[b.phi(_vector(self.work)) for _ in range(SUMS)] for _ in range(UNROLL)]
        b.cbranch(b.icmp_signed("<", place, end), body, done)
        b.position_at_end(body)
        if self.layout == DENSE:
            self._prefetch(place)
        added = [self._added(b.add(place, _INT64(u)), one) for u, one in enumerate(sums)]
        after = b.add(place, _INT64(UNROLL))
        b.branch(head)
        place.add_incoming(start, before)
        place.add_incoming(after, body)
        for old, new in zip(sums, added, strict=True):
            for phi, value in zip(old, new, strict=True):
                phi.add_incoming(_splat(self.work, 0.0), before)
                phi.add_incoming(value, body)
        b.position_at_end(done)
        return sums

    def _added(self, place: Value, sums: Sequence[Value]) -> list[Value]:
        """Return the sums after one more vector."""
        b, (top, bottom, middle, product) = self.b, sums
        values, clean = self._load(self.grad, place), self._load(self.clean, place)
        in_top, in_bottom = self._mask(self.top, place), self._mask(self.bottom, place)
        square = b.fmul(values, values)
        return [
            b.select(in_top, b.fadd(top, square), top),
            b.select(in_bottom, b.fadd(bottom, square), bottom),
            b.select(b.or_(in_top, in_bottom), middle, b.fadd(middle, square)),
            b.fadd(product, b.fmul(values, clean, flags=["contract"]), flags=["contract"]),
        ]

    def _load(self, address: Value, place: Value) -> Value:
        b = self.b
        start = b.add(address, b.mul(place, b.mul(self.stride, _INT64(LANES))))
        if self.layout == DENSE:
            values = b.load(b.inttoptr(start, _vector(self.element).as_pointer()), align=self.size)
        elif self.layout == PAIRS:
            both = b.load(b.inttoptr(start, ir.VectorType(self.element, 2 * LANES).as_pointer()), align=self.size)
            firsts = ir.Constant(_vector(_INT32), [2 * lane for lane in range(LANES)])
            values = b.shuffle_vector(both, ir.Constant(both.type, ir.Undefined), firsts)
        else:
            values = ir.Constant(_vector(self.element), ir.Undefined)
            for lane in range(LANES):
                pointer = b.inttoptr(b.add(start, b.mul(self.stride, _INT64(lane))), self.element.as_pointer())
                values = b.insert_element(values, b.load(pointer, align=self.size), _INT32(lane))
        values = self.widen(b, values)
        return values if values.type == _vector(self.work) else b.fpext(values, _vector(self.work))

    def _mask(self, plane: Value, place: Value) -> Value:
        at = self.b.add(plane, self.b.mul(place, self.b.mul(self.mask_step, _INT64(LANES // 8))))
        bits = self.b.load(self.b.inttoptr(at, ir.IntType(LANES).as_pointer()), align=1)
        return self.b.bitcast(bits, _vector(ir.IntType(1)))

    def _prefetch(self, place: Value) -> None:
        """Ask for the same place of the chunk that is read next: of another expert, which the processor cannot know."""
        b, byte = self.b, ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
        prefetch = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        start = b.add(self.ahead, b.mul(place, _INT64(LANES * self.size)))
        for line in range(0, STEP * self.size, 64):
            at = b.inttoptr(b.add(start, _INT64(line)), byte)
            b.call(prefetch, [at, _INT32(0), _INT32(3), _INT32(1)])  # to read, keep in all caches, data

    def _flush(self, sums: Sequence[Sequence[Value]], totals: Value) -> None:
        b = self.b
        for place in range(SUMS):
            pointer = b.gep(totals, [_INT64(place)])
            total = b.load(pointer, align=8)
            for one in sums:
                wide = one[place] if self.work == _DOUBLE else b.fpext(one[place], _vector(_DOUBLE))
                total = b.fadd(total, wide)
            b.store(total, pointer, align=8)


def _compiled(loop: _Loop) -> Any:
    """Return the loop as a function that compiled code may call."""

    @_intrinsic
    def add(typing, grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums):  # type: ignore[no-untyped-def]
        """Add `vectors` vectors (a multiple of UNROLL) to sums [SUMS, LANES]; all but the numbers are addresses."""

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            loop.emit(builder, arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 9), codegen

    return add


_OF_KIND = {
    FLOAT32: (_SINGLE, 4, _same),
    FLOAT64: (_DOUBLE, 8, _same),
    BFLOAT16: (ir.IntType(16), 2, _from_bfloat16),
    FLOAT16: (ir.IntType(16), 2, _from_float16),
}
_single, _single_pairs, _single_apart = (
    _compiled(_Loop(*_OF_KIND[FLOAT32], exact=False, layout=layout)) for layout in (DENSE, PAIRS, APART)
)
_bfloat, _bfloat_pairs, _bfloat_apart = (
    _compiled(_Loop(*_OF_KIND[BFLOAT16], exact=False, layout=layout)) for layout in (DENSE, PAIRS, APART)
)
_half, _half_pairs, _half_apart = (
    _compiled(_Loop(*_OF_KIND[FLOAT16], exact=False, layout=layout)) for layout in (DENSE, PAIRS, APART)
)
_exact_single, _exact_double = (
    _compiled(_Loop(*_OF_KIND[kind], exact=True, layout=DENSE)) for kind in (FLOAT32, FLOAT64)
)
_exact_single_apart, _exact_double_apart, _exact_bfloat_apart, _exact_half_apart = (
    _compiled(_Loop(*_OF_KIND[kind], exact=True, layout=APART)) for kind in (FLOAT32, FLOAT64, BFLOAT16, FLOAT16)
)


@_intrinsic
def _pointer(typing, address):  # type: ignore[no-untyped-def]
    """Return an address as a pointer, of which `carray` makes an array."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.intp), codegen


def _cached(signature: str) -> Callable[[Any], Any]:
    """Return a decorator that compiles a function at once and keeps the result on disk, if a folder can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}

    def decorate(function: Any) -> Any:
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in
            return njit(signature, **options)(function)

    return decorate


@_cached("void(i8,i8,i8,i8,i8,i8,i8,i8,i8,i8)")
def _add_exactly(kind, grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums):  # type: ignore[no-untyped-def]
    """Add the sums of some vectors in float64."""
    if kind == FLOAT32:
        if stride == 1:
            _exact_single(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
        else:
            _exact_single_apart(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
    elif kind == FLOAT64:
        if stride == 1:
            _exact_double(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
        else:
            _exact_double_apart(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
    elif kind == BFLOAT16:
        _exact_bfloat_apart(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
    else:
        _exact_half_apart(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)


@_cached("void(i8,i8,i8,i8,i8,i8,i8,i8,i8,i8)")
def _add(kind, grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums):  # type: ignore[no-untyped-def]
    """Add the sums of some vectors in float32, by the loop for their type and layout."""
    if kind == FLOAT32:
        if stride == 1:
            _single(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
        elif stride == 2:
            _single_pairs(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
        else:
            _single_apart(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
    elif kind == BFLOAT16:
        if stride == 1:
            _bfloat(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
        elif stride == 2:
            _bfloat_pairs(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
        else:
            _bfloat_apart(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
    elif stride == 1:
        _half(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
    elif stride == 2:
        _half_pairs(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)
    else:
        _half_apart(grad, clean, ahead, top, bottom, mask_step, vectors, stride, sums)


@_cached("i8(i8,i8,i8,i8,u8[::1])")
def _padded(address, stride, count, size, spare):  # type: ignore[no-untyped-def]
    """Copy fewer elements than a step, and zeros after them; return the address of the copy."""
    spare[:] = 0
    if size == 2:
        halves = carray(_pointer(address), count * stride, np.uint16)
        for place in range(count):
            spare.view(np.uint16)[place] = halves[place * stride]
    elif size == 4:
        singles = carray(_pointer(address), count * stride, np.uint32)
        for place in range(count):
            spare.view(np.uint32)[place] = singles[place * stride]
    else:
        doubles = carray(_pointer(address), count * stride, np.uint64)
        for place in range(count):
            spare[place] = doubles[place * stride]
    return spare.ctypes.data


@_cached("i8(i8[::1],i8)")
def _offset(tensor, chunk):  # type: ignore[no-untyped-def]
    """Return the bytes from the start of an expert's tensor to one of its chunks."""
    in_row = (tensor[COLUMNS] + CHUNK - 1) // CHUNK
    elements = chunk // in_row * tensor[ROW_STRIDE] + chunk % in_row * CHUNK * tensor[STRIDE]
    return elements * (8 if tensor[KIND] == FLOAT64 else 4 if tensor[KIND] == FLOAT32 else 2)


@_cached("void(i8[::1],i8[::1],i8,f8[:,:,::1],u8[:,::1])")
def _sum_chunk(tensor, addresses, chunk, totals, spare):  # type: ignore[no-untyped-def]
    """Add one chunk of every expert to totals [E, SUMS, LANES]."""
    columns, stride, kind, step = tensor[COLUMNS], tensor[STRIDE], tensor[KIND], tensor[MASK_STEP]
    exact = tensor[EXACT] != 0 or kind == FLOAT64
    size = 8 if kind == FLOAT64 else 4 if kind == FLOAT32 else 2
    in_row = (columns + CHUNK - 1) // CHUNK
    row, column = chunk // in_row, chunk % in_row * CHUNK
    count = min(CHUNK, columns - column)
    # The last pair may end behind the tensor, so a vector must not be loaded there. Rows at a distance of 0 are one.
    last = row == tensor[ROWS] - 1 or tensor[ROW_STRIDE] == 0
    at_end = stride == 2 and last and column + count == columns
    vectors = (count - at_end) // STEP * UNROLL
    offset, after = _offset(tensor, chunk), _offset(tensor, chunk + 1)
    marks = (row * columns + column) // 8 * step
    top, bottom, read = tensor[TOP] + marks, tensor[BOTTOM] + marks, vectors * LANES // 8 * step
    rest, done = count - vectors * LANES, offset + vectors * LANES * stride * size
    experts = len(addresses)
    for expert in range(experts):
        grad = addresses[expert]
        if grad:
            clean = addresses[0] if addresses[0] else grad
            ahead = addresses[expert + 1] + offset if expert + 1 < experts else clean + after
            sums = totals[expert].ctypes.data
            if exact:
                _add_exactly(kind, grad + offset, clean + offset, ahead, top, bottom, step, vectors, stride, sums)
            else:
                _add(kind, grad + offset, clean + offset, ahead, top, bottom, step, vectors, stride, sums)
            if rest:
                own = _padded(grad + done, stride, rest, size, spare[0])
                other = _padded(clean + done, stride, rest, size, spare[1])
                if exact:
                    _add_exactly(kind, own, other, own, top + read, bottom + read, step, UNROLL, 1, sums)
                else:
                    _add(kind, own, other, own, top + read, bottom + read, step, UNROLL, 1, sums)


@_cached("b1(i8[::1],f8[::1])")
def _is_sound(tensor, sums):  # type: ignore[no-untyped-def]
    least = 0.0 if tensor[EXACT] or tensor[KIND] == FLOAT64 else SMALLEST * tensor[ROWS] * tensor[COLUMNS]
    smallest = sums[2] if tensor[MASK_STEP] == 0 else min(sums[0], sums[1], sums[2])
    return smallest >= least and np.isfinite(sums.sum())


@_cached("b1(i8[:,::1],i8[::1],i8,i8,f8[:,::1])")
def sum_tiers(tensors_T, addresses_R, first, last, sums_R):  # type: ignore[no-untyped-def]
    """Add the tier sums of some gradients to sums [R, SUMS], nothing for an address of 0; return whether all are sound.

    A sum is sound if it is finite, and so large that float32 has lost nothing of it, or summed in float64.

    first, last: the part of the work to do, in chunks of one expert, counted through all tensors.
    """
    spare, sound = np.empty((2, STEP), np.uint64), True
    for place in range(len(tensors_T)):
        tensor = tensors_T[place]
        experts, row = tensor[EXPERTS], tensor[FIRST]
        if not tensor[ROWS]:
            continue
        chunks = tensor[ROWS] * ((tensor[COLUMNS] + CHUNK - 1) // CHUNK)
        begin = max((first - tensor[UNITS] + experts - 1) // experts, 0)
        end = min((last - tensor[UNITS] + experts - 1) // experts, chunks)
        if begin < end:
            totals = np.zeros((experts, SUMS, LANES))
            addresses = addresses_R[row : row + experts]
            for chunk in range(begin, end):
                _sum_chunk(tensor, addresses, chunk, totals, spare)
            for expert in range(experts):
                for sum_ in range(SUMS if addresses[0] else SUMS - 1):
                    sums_R[row + expert, sum_] += totals[expert, sum_].sum()
                sound &= not addresses[expert] or _is_sound(tensor, sums_R[row + expert])
    return sound
