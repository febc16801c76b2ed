"""Codes of four or eight bits, packed into words of 32."""

import numpy as np


def unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """What words (n, W) hold from the lowest bits up: uint8 (n, W * 32 / bits)."""
    packed = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return packed
    pairs = packed.astype("<u2")  # from 0x00HL by 0x0HxL
    pairs |= pairs << 4
    pairs &= 0x0F0F
    return pairs.view(np.uint8)


def codes_of(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned codes as :class:`Rows` has them: 0 to 15, or int8, where -128 is the lowest."""
    return numbers if bits == 4 else (numbers ^ 0x80).view(np.int8)


def zero_points_of(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned zero points, counted as the codes are: float16."""
    return codes_of(numbers, bits).astype(np.float16)


def words_for(count: int, bits: int) -> int:
    """How many words hold so many codes."""
    return -(-count * bits // 32)
