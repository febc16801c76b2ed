"""The bytes that a token stands for, by the way in which a tokenizer's file spells it."""

import re

# Of a byte-level vocabulary: bytes that are printable characters of Latin-1 stand for themselves, the others for the
# characters from 256 on, in their order.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}
BYTE_LEVEL = ("\u0120", "\u010a")
"""A space and a line's end, as tokens of their own: what every byte-level vocabulary has, and others hardly."""

_ONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def bytes_of(token: str, byte_level: bool) -> bytes:
    """The bytes of a token. byte_level: whether its characters stand for bytes; else it is as SentencePiece has it."""
    if byte_level:
        known = [_BYTES.get(character) for character in token]
        return token.encode() if None in known else bytes(known)
    if byte := _ONE_BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace("\u2581", " ").encode()
