"""The rates of formats: one that was not measured has those of the most similar one."""

import json

import pytest

from tpi_mpi.kernels.formats import Format
from tpi_mpi.measurement.rates import ProductRates, Rates

MEASURED = [Format("bfloat16"), Format.of("int8"), Format.of("int4"), Format.of("int4", 128, zero_points=True)]
RATES = Rates(None, 1e10, {format: ProductRates(index, 0.0) for index, format in enumerate(MEASURED)})


@pytest.mark.parametrize(
    ("format", "like"),
    [
        *((format, format) for format in MEASURED),
        (Format.of("int4", 64), Format.of("int4", 128, zero_points=True)),
        (Format.of("int4", 32, zero_points=True), Format.of("int4")),
        (Format.of("int8", 128), Format.of("int8")),
        (Format("float32"), Format("bfloat16")),
        (Format("float16"), Format("bfloat16")),
        (Format.of("float8"), Format.of("int8")),
        (Format.of("mxfp4"), Format.of("int4", 128, zero_points=True)),
    ],
    ids=str,
)
def test_the_same_dtype_comes_first_and_then_the_bits_of_a_weight(format, like):
    assert RATES.of(format) == RATES.products[like]


def test_rates_survive_json():
    assert Rates.from_json(json.loads(json.dumps(RATES.to_json()))) == RATES


@pytest.mark.parametrize(
    "products", [{}, [], {"int5 by 32": {"gemv": 1.0, "gemm": 1.0}}, {"int4 by 32": {"gemv": 1.0}}]
)
def test_what_has_no_rates_is_refused(products):
    with pytest.raises((TypeError, ValueError)):
        Rates.from_json({"read": 1.0, "memory": 1.0, "products": products})
