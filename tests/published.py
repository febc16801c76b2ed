"""Quantized weights as people publish them, packed number by number from what each format is said to be."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

MODEL, CONFIG = "model.safetensors", "config.json"

E4M3_NAN = (0x7F, 0xFF)


@dataclass
class Quantized:
    """A random matrix. codes: (out, in), from 0 on. scales, zeros: (out, groups). group_of: (in,)."""

    bits: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_of: np.ndarray

    @classmethod
    def random(cls, shape=(24, 256), bits=4, group=32, symmetric=False, shuffled=False, seed=0) -> "Quantized":
        """group: -1 for the whole row. shuffled: whether inputs of a group are anywhere, as desc_act leaves them."""
        random = np.random.default_rng(seed)
        outputs, inputs = shape
        group_of = np.arange(inputs) // (inputs if group == -1 else group)
        sizes = outputs, group_of[-1] + 1
        return cls(
            bits=bits,
            codes=random.integers(0, 2**bits, shape),
            scales=(random.random(sizes) * 0.02 + 0.001).astype(np.float16),
            zeros=np.full(sizes, 2 ** (bits - 1)) if symmetric else random.integers(1, 2**bits, sizes),
            group_of=random.permutation(group_of) if shuffled else group_of,
        )

    @classmethod
    def of(cls, weight: np.ndarray, bits=4, group=32, symmetric=False, shuffled=False) -> "Quantized":
        """Some weights, rounded to the nearest codes that reach from the least to the largest of a group."""
        matrix = cls.random(weight.shape, bits, group, symmetric, shuffled)
        most = 2**bits - 1
        for row, g in np.ndindex(matrix.scales.shape):
            inputs = matrix.group_of == g
            low, high = min(weight[row, inputs].min(), 0), max(weight[row, inputs].max(), 0)
            if symmetric:
                matrix.scales[row, g] = max(-low, high) / (most // 2)
            else:
                matrix.scales[row, g] = (high - low) / most
                matrix.zeros[row, g] = np.clip(round(-low / matrix.scales[row, g]), 1, most)
            codes = np.rint(weight[row, inputs] / matrix.scales[row, g]) + matrix.zeros[row, g]
            matrix.codes[row, inputs] = np.clip(codes, 0, most)
        return matrix

    def weight(self) -> np.ndarray:
        """Every code less its zero point, times its scale, in float32."""
        weight = np.empty(self.codes.shape, np.float32)
        for o, i in np.ndindex(weight.shape):
            g = self.group_of[i]
            weight[o, i] = np.float32(self.codes[o, i] - self.zeros[o, g]) * np.float32(self.scales[o, g])
        return weight


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """A matrix of small numbers packed along its rows, 32 bits at a time, the first number lowest."""
    each = 32 // bits
    words = np.zeros((len(numbers), -(-numbers.shape[1] // each)), np.uint32)
    for row, column in np.ndindex(numbers.shape):
        words[row, column // each] |= np.uint32(int(numbers[row, column]) << bits * (column % each))
    return words


def int32(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words.view(np.int32)))


def gptq(matrix: Quantized, less_one: bool = True) -> dict[str, torch.Tensor]:
    """less_one: the format gptq; otherwise gptq_v2."""
    zeros = packed(matrix.zeros.T, matrix.bits)
    ones = packed(np.ones_like(matrix.zeros.T), matrix.bits)
    return {
        "qweight": int32(packed(matrix.codes, matrix.bits).T),
        "qzeros": int32(zeros - ones if less_one else zeros),
        "scales": torch.from_numpy(matrix.scales.T.copy()),
        "g_idx": torch.from_numpy(matrix.group_of.astype(np.int32)),
    }


def awq(matrix: Quantized) -> dict[str, torch.Tensor]:
    """Of each eight outputs, the even ones come first, then the odd ones."""
    order = [base + within for base in range(0, len(matrix.codes), 8) for within in (0, 2, 4, 6, 1, 3, 5, 7)]
    return {
        "qweight": int32(packed(matrix.codes[order].T, 4)),
        "qzeros": int32(packed(matrix.zeros[order].T, 4)),
        "scales": torch.from_numpy(matrix.scales.T.copy()),
    }


def pack_quantized(matrix: Quantized, symmetric: bool = False, scales=torch.float16) -> dict[str, torch.Tensor]:
    """compressed-tensors, packed."""
    parts = {
        "weight_packed": int32(packed(matrix.codes, matrix.bits)),
        "weight_shape": torch.tensor(matrix.codes.shape),
        "weight_scale": torch.from_numpy(matrix.scales).to(scales),
        "weight_zero_point": int32(packed(matrix.zeros.T, matrix.bits).T),
    }
    if symmetric:
        del parts["weight_zero_point"]
    if (matrix.group_of != np.sort(matrix.group_of)).any():
        parts["weight_g_idx"] = torch.from_numpy(matrix.group_of.astype(np.int32))
    return parts


def int_quantized(matrix: Quantized) -> dict[str, torch.Tensor]:
    """compressed-tensors, one code a byte."""
    return {
        "weight": torch.from_numpy((matrix.codes - 128).astype(np.int8)),
        "weight_scale": torch.from_numpy(matrix.scales),
        "weight_zero_point": torch.from_numpy((matrix.zeros - 128).astype(np.int8)),
    }


def float8(shape, block, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Random weights in E4M3, their scales by blocks (rows, columns), and what they stand for."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 256, shape, dtype=np.uint8)
    codes[np.isin(codes, E4M3_NAN)] = 0
    grid = [-(-length // each) for length, each in zip(shape, block, strict=True)]
    scales = (random.random(grid) * 0.01 + 0.001).astype(np.float32)
    stored = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    weight = stored.float().numpy()
    for row, column in np.ndindex(weight.shape):
        weight[row, column] *= scales[row // block[0], column // block[1]]
    return stored, torch.from_numpy(scales), weight


def float8_of(weight: np.ndarray, block) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Some weights as :func:`float8` gives them."""
    grid = [-(-length // each) for length, each in zip(weight.shape, block, strict=True)]
    scales, numbers = np.empty(grid, np.float32), np.empty(weight.shape, np.float32)
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    for row, column in np.ndindex(*grid):
        rows, columns = (slice(at * each, (at + 1) * each) for at, each in zip((row, column), block, strict=True))
        scales[row, column] = np.abs(weight[rows, columns]).max() / 448
        codes[rows, columns] = torch.from_numpy(weight[rows, columns] / scales[row, column]).to(torch.float8_e4m3fn)
        numbers[rows, columns] = codes[rows, columns].float().numpy() * scales[row, column]
    return codes, torch.from_numpy(scales), numbers


E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def mxfp4_of(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some weights rounded to MXFP4: blocks (out, in / 32, 16), scales (out, in / 32), and what they stand for."""
    outputs, inputs = weight.shape
    blocks = np.zeros((outputs, inputs // 32, 16), np.uint8)
    scales, numbers = np.zeros((outputs, inputs // 32), np.uint8), np.empty(weight.shape, np.float32)
    for row, group in np.ndindex(scales.shape):
        exponent = int(np.ceil(np.log2(np.abs(weight[row, 32 * group : 32 * group + 32]).max() / 6)))
        scales[row, group] = exponent + 127
        for at in range(32):
            number = float(weight[row, 32 * group + at])
            distances = [abs(abs(number) / 2.0**exponent - magnitude) for magnitude in E2M1]
            code = distances.index(min(distances))
            numbers[row, 32 * group + at] = (-1 if number < 0 else 1) * E2M1[code] * 2.0**exponent
            blocks[row, group, at // 2] |= (code + 8 * (number < 0)) << 4 * (at % 2)
    return blocks, scales, numbers


def publish_mxfp4(source: Path, target: Path) -> dict[str, torch.Tensor]:
    """Writes a gpt_oss checkpoint with its experts in MXFP4; returns the weights that they stand for, by name."""
    tensors, weights = {}, {}
    for name, tensor in load_file(source / MODEL).items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = tensor.bfloat16()  # the rest is published so
            continue
        experts = [mxfp4_of(expert.T.float().numpy()) for expert in tensor]
        blocks, scales, numbers = (np.stack(several) for several in zip(*experts, strict=True))
        tensors |= {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(scales)}
        weights[name] = torch.from_numpy(numbers).transpose(1, 2).contiguous()
    _write(target, tensors, source, MXFP4_CONFIG)
    return weights


MXFP4_CONFIG = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}


def gptq_config(bits=4, group=32, **others) -> dict:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": True, "desc_act": False, **others}


def awq_config(group=32, **others) -> dict:
    version = {"version": "gemm", "zero_point": True}
    return {"quant_method": "awq", "bits": 4, "group_size": group, **version, **others}


def fp8_config(block=(128, 128), **others) -> dict:
    block = block and list(block)
    return {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block, **others}


def compressed_config(format: str, weights: dict, targets=("Linear",), ignore=("lm_head",), **others) -> dict:
    group = {"targets": list(targets), "weights": {"dynamic": False, "symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**group, "input_activations": None}},
        "ignore": list(ignore),
        **others,
    }


def publish(source: Path, target: Path, config: dict, pack: Callable) -> dict[str, torch.Tensor]:
    """Writes a checkpoint with its layers' matrices quantized; returns the weights that they stand for, by name.

    pack: makes a weight into the tensors that stand for it, by suffix, and these weights.
    """
    tensors, weights = {}, {}
    for name, tensor in load_file(source / MODEL).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        parts, weight = pack(tensor.float().numpy())
        tensors |= {f"{name.removesuffix('.weight')}.{suffix}": part.contiguous() for suffix, part in parts.items()}
        weights[name] = torch.from_numpy(weight)
    _write(target, tensors, source, config)
    return weights


def _write(target: Path, tensors: dict[str, torch.Tensor], source: Path, config: dict) -> None:
    target.mkdir()
    save_file(tensors, target / MODEL, metadata={"format": "pt"})
    keys = json.loads((source / CONFIG).read_text())
    (target / CONFIG).write_text(json.dumps({**keys, "quantization_config": config}))
