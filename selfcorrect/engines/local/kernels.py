"""The small loops of a ragged forward pass on a CPU, compiled by numba: norms, rotary positions, attention.

N tokens belong to R rows of different lengths; token n stands at ``positions_N[n]`` of cache slot ``slots_N[n]``, and
row r's tokens are ``bounds[r]`` … ``bounds[r + 1] - 1``. PyTorch has no CPU kernel for attention over such rows:
padding them to one width and masking costs several times the arithmetic. Here every token reads exactly the keys of its
own row's past, so its result does not depend on the rest of the batch.

Axes: ``N`` tokens, ``S`` cache slots, ``H`` key-value heads, ``C`` columns (positions), ``D`` head size, ``E`` hidden
size, ``F`` size of the MLP. All arrays are float32 and contiguous; ``cos_CD``, ``sin_CD`` are tables by position.
Compiled once per machine: numba keeps the code beside this file or, where that folder cannot be written, in the
user's cache folder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compiled: Any = njit(cache=True, fastmath=True, nogil=True, error_model="numpy")

_ONE, _HALF = np.float32(1), np.float32(0.5)
_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # Few bits, so that its product with a small whole number is exact.
_LN2_LOW = np.float32(-2.12194440e-4)
_LEAST, _MOST = np.float32(-87), np.float32(87)  # exp stays among float32's normal numbers.
# The series of exp about 0, 1/n!: for |r| <= ln(2)/2 what is left out is below float32's resolution.
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1 / n) for n in (2, 6, 24, 120, 720, 5040))


@_compiled
def rms_norm(x_NE: Any, added_NE: Any, weight_E: Any, epsilon: Any, out_NE: Any) -> None:
    """Add ``added_NE`` to ``x_NE`` in place; write ``x`` / its root mean square · weight into ``out_NE``."""
    rows, size = x_NE.shape
    for n in range(rows):
        x, added, out = x_NE[n], added_NE[n], out_NE[n]
        total = np.float32(0)
        for e in range(size):
            x[e] += added[e]
            total += x[e] * x[e]
        factor = _ONE / np.sqrt(total / np.float32(size) + np.float32(epsilon))
        for e in range(size):
            out[e] = x[e] * factor * weight_E[e]


@_compiled
def swiglu(gate_NF: Any, up_NF: Any) -> None:
    """Write silu(gate) · up = gate · up / (1 + exp(-gate)) over ``gate_NF``."""
    rows, size = gate_NF.shape
    power_bits = np.empty(size, np.int32)
    powers = power_bits.view(np.float32)
    for n in range(rows):
        gate, up = gate_NF[n], up_NF[n]
        for f in range(size):
            gate[f], up[f] = gate[f] * up[f], min(max(-gate[f], _LEAST), _MOST)
        _exp(up, power_bits, powers, size)
        for f in range(size):
            gate[f] /= _ONE + up[f]


@_compiled
def store(
    key_NHD: Any, value_NHD: Any, cos_CD: Any, sin_CD: Any, slots_N: Any, positions_N: Any, keys: Any, values: Any
) -> None:
    """Rotate the new keys and write them and the new values into a layer's cache: ``keys``, ``values`` (S, H, C, D)."""
    tokens, heads, size = key_NHD.shape
    for n in range(tokens):
        slot, position = slots_N[n], positions_N[n]
        for h in range(heads):
            _rotate(key_NHD[n, h], cos_CD[position], sin_CD[position], _ONE, keys[slot, h, position])
            value, own = value_NHD[n, h], values[slot, h, position]
            for d in range(size):
                own[d] = value[d]


@_compiled
def attend(
    query_NGD: Any,
    cos_CD: Any,
    sin_CD: Any,
    scale: Any,
    bounds: Any,
    slots_N: Any,
    positions_N: Any,
    keys: Any,
    values: Any,
    out_NGD: Any,
) -> None:
    """Write the attention of N tokens, each over positions 0 … its own, into ``out_NGD``.

    ``G`` query heads share H key-value heads in groups. ``scale`` multiplies the scores. A row's tokens stand side by
    side, so several of them (a prompt) are two matrix products; one (the common case) is two loops.
    """
    _, query_heads, size = query_NGD.shape
    heads, width = keys.shape[1:3]
    group = query_heads // heads
    query = np.empty(size, np.float32)
    mixed = np.empty(size, np.float32)
    weights = np.empty(width, np.float32)
    power_bits = np.empty(width, np.int32)
    powers = power_bits.view(np.float32)
    factor = np.float32(scale)
    for row in range(len(bounds) - 1):
        first, last = bounds[row], bounds[row + 1] - 1
        slot, position = slots_N[first], positions_N[first]
        if first == last:
            length = position + 1
            for g in range(query_heads):
                own_keys, own_values, out = keys[slot, g // group], values[slot, g // group], out_NGD[first, g]
                _rotate(query_NGD[first, g], cos_CD[position], sin_CD[position], factor, query)
                for j in range(length):
                    key, score = own_keys[j], np.float32(0)
                    for d in range(size):
                        score += query[d] * key[d]
                    weights[j] = score
                share = _ONE / _softmax(weights, power_bits, powers, length)
                for d in range(size):
                    mixed[d] = 0
                fours = length - length % 4
                for j in range(0, fours, 4):
                    w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
                    v0, v1, v2, v3 = own_values[j], own_values[j + 1], own_values[j + 2], own_values[j + 3]
                    for d in range(size):
                        mixed[d] += w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]
                for j in range(fours, length):
                    weight, value = weights[j], own_values[j]
                    for d in range(size):
                        mixed[d] += weight * value[d]
                for d in range(size):
                    out[d] = mixed[d] * share
        else:
            tokens, length = last - first + 1, position + last - first + 1
            queries = np.empty((tokens, size), np.float32)
            for g in range(query_heads):
                own_keys, own_values = keys[slot, g // group, :length], values[slot, g // group, :length]
                for t in range(tokens):
                    _rotate(query_NGD[first + t, g], cos_CD[position + t], sin_CD[position + t], factor, queries[t])
                scores = np.dot(queries, own_keys.T)
                for t in range(tokens):
                    past = position + t + 1
                    share = _ONE / _softmax(scores[t], power_bits, powers, past)
                    for j in range(past):
                        scores[t, j] *= share
                    scores[t, past:] = 0
                out_NGD[first : last + 1, g] = np.dot(scores, own_values)


@_compiled
def _rotate(x_D: Any, cos_D: Any, sin_D: Any, factor: Any, out_D: Any) -> None:
    """Write the rotary embedding of a head's vector, times a factor."""
    half = len(x_D) // 2
    for d in range(half):
        out_D[d] = (x_D[d] * cos_D[d] - x_D[half + d] * sin_D[d]) * factor
        out_D[half + d] = (x_D[half + d] * cos_D[half + d] + x_D[d] * sin_D[half + d]) * factor


@_compiled
def _softmax(scores: Any, power_bits: Any, powers: Any, length: int) -> Any:
    """Replace the first ``length`` scores by exp(score - the highest) and return their sum."""
    most = scores[0]
    for j in range(1, length):
        most = max(most, scores[j])
    for j in range(length):
        scores[j] = max(scores[j] - most, _LEAST)
    _exp(scores, power_bits, powers, length)
    total = np.float32(0)
    for j in range(length):
        total += scores[j]
    return total


@_compiled
def _exp(x: Any, power_bits: Any, powers: Any, length: int) -> None:
    """Replace the first ``length`` numbers, within ±87, by their exponentials; ``powers`` are ``power_bits`` as floats.

    exp(x) = 2^k · exp(r) with k = round(x / ln 2); 2^k is made from its bits, exp(r) is a short series.
    """
    for j in range(length):
        k = np.floor(x[j] * _LOG2E + _HALF)
        power_bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)
        r = (x[j] - k * _LN2_HIGH) - k * _LN2_LOW
        x[j] = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7))))))
    for j in range(length):
        x[j] *= powers[j]
