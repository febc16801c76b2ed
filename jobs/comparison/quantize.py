"""Quantizes a GGUF file with llama.cpp's own quantizer, by its own choice of types for embedding and output head.

    python jobs/comparison/quantize.py MODEL.gguf OUT.gguf q4_0

Cost: MODEL.gguf is read once; some seconds for each billion parameters. Needs llama-cpp-python.
"""

import ctypes
import sys

import llama_cpp


def quantize(source: str, target: str, name: str) -> None:
    """name: of one of llama.cpp's formats, as in q8_0. Raises SystemExit if it refuses."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)) != 0:
        raise SystemExit(f"llama.cpp could not quantize {source} to {name}; its messages say why")


if __name__ == "__main__":
    quantize(*sys.argv[1:])
