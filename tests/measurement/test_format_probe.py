"""Products can be measured in any format, whether the slab has it or not, with compiled kernels and without."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tpi_mpi.kernels.fallback import Fallback
from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.linear import open_linear
from tpi_mpi.measurement import probes
from tpi_mpi.measurement.format_probe import formats_to_probe, probe_formats, rates_from
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.slab import planned_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats

ALONE = SimpleNamespace(host="here", barrier=lambda: None, broadcast=lambda value: value)
CORES = SimpleNamespace(first_ahead=nullcontext)
OTHER = Format.of("int4", 128, zero_points=True)


@pytest.fixture
def slab(demo):
    """A slab in int4, with an output head in int8."""
    config = ModelConfig.load(demo / "config.json")
    return planned_slab(config, Partition.of(config, 1), 0, StoredFormats.like(config, "int4"))


@pytest.mark.parametrize("make", [Fallback, open_linear])
def test_all_formats_are_measured_for_all_rows(slab, make, monkeypatch):
    monkeypatch.setattr(probes, "_SECONDS", 0.001)
    formats = formats_to_probe(ALONE, slab, [OTHER])
    assert formats == [Format.of("int4"), Format.of("int8"), OTHER]
    with make() as linear:
        found = probe_formats(ALONE, CORES, slab, linear, formats, [1, 2], [16])
    assert [probe.format for probe in found] == formats
    for probe in found:
        assert (list(probe.decode), list(probe.prompt)) == ([1, 2], [16])
        assert probe.kernels
    rates = rates_from(None, found, chunk=16)
    assert rates.of(OTHER).gemv == found[-1].decode[1]
    assert min(found, key=lambda probe: probe.memory).memory <= rates.memory
