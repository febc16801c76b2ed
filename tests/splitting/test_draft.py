"""Laws of the draft: it is the same model, cut alike; it resumes; and where it makes no sense it is refused."""

import json
import shutil

import published
import pytest
from conftest import run_module
from interrupting import Interrupted, interrupt
from safetensors.torch import load_file, save_file

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.common.units import MIB
from tpi_mpi.weights.slabs.directory import DRAFT, MANIFEST, Manifest, has_draft, open_draft, open_slabs, slab_path
from weights_tools.common.target_directory import JOURNAL
from weights_tools.inspect import inspect
from weights_tools.split import split
from weights_tools.splitting import cut as cutting
from weights_tools.verify import verify

MODEL = "model.safetensors"


def drafted(checkpoint, slabs, *options: str, dtype: str = "int4", ranks: int = 2) -> None:
    split([str(checkpoint), str(slabs), "--ranks", str(ranks), "--with-draft", dtype, *options])


@pytest.fixture(scope="module")
def whole(demo, tmp_path_factory):
    """Slabs of the demo model with a draft; tests must leave them alone."""
    target = tmp_path_factory.mktemp("drafted") / "slabs"
    drafted(demo, target)
    return target


@pytest.fixture
def slabs(whole, tmp_path):
    """A copy that the test may spoil."""
    return shutil.copytree(whole, tmp_path / "slabs")


def files_of(directory) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def forget_draft(slabs) -> None:
    shutil.rmtree(slabs / DRAFT)


@pytest.mark.parametrize("name", ["llama", "llama-mqa", "llama-biases-tied", "mistral-sliding", "qwen3", "phi3"])
@pytest.mark.parametrize(
    "options", ["--ranks 1", "--ranks 3 --ratios 4,1,2", "--ranks 4 --group 128 --dtype bfloat16", "--ranks 8"]
)
def test_the_partition_is_that_of_the_slabs(name, options, checkpoints, tmp_path):
    split([str(checkpoints[name]), str(tmp_path), *options.split(), "--with-draft", "int4"])
    slabs = open_slabs(tmp_path)
    for draft, slab in zip(open_draft(tmp_path, slabs[0]), slabs, strict=True):
        assert draft.partition == slab.partition
        assert list(draft.blocks) == list(slab.blocks)
        assert (draft.dtype, draft.source_digest) == ("int4", slab.source_digest)
    verify([str(tmp_path), "--checkpoint", str(checkpoints[name])])


@pytest.mark.parametrize(
    ("dtype", "options", "layers", "rest"),
    [
        ("int4", "", "int4 by 32", "bfloat16"),
        ("int8", "--dtype float16", "int8 by 32", "float16"),
        ("int4", "--group 128 --head-dtype float32", "int4 by 128", "bfloat16"),
        ("int4", "--dtype int8 --group 64", "int4 by 64", "bfloat16"),
        ("int4", "--zero-points", "int4 by 32 with zero points", "bfloat16"),
    ],
)
def test_it_is_stored_as_was_asked_for(dtype, options, layers, rest, demo, tmp_path):
    drafted(demo, tmp_path, *options.split(), dtype=dtype)
    group = layers.split()[2]
    for slab in open_slabs(tmp_path / DRAFT):
        head = f"int8 by {group}"
        assert slab.formats == {"layers": layers, "head": head, "embedding": rest, "vectors": rest}


def test_it_is_what_a_split_into_its_dtype_holds_and_runs_by_itself(demo, demo_slabs, whole, tmp_path):
    """Of one rank, where the partition has nothing to balance."""
    drafted(demo, tmp_path / "slabs", ranks=1)
    split([str(demo), str(tmp_path / "int4"), "--ranks", "1", "--dtype", "int4"])
    of_draft, of_int4 = (open_slabs(path)[0] for path in (tmp_path / "slabs" / DRAFT, tmp_path / "int4"))
    layers = [name for name in of_int4.blocks if name.startswith("layers.")]
    assert [of_draft.blocks[name].checksum for name in layers] == [of_int4.blocks[name].checksum for name in layers]
    for rank in range(2):
        assert slab_path(whole, rank).read_bytes() == slab_path(demo_slabs(2), rank).read_bytes()
    finished = run_module("tpi_mpi.generate", whole / DRAFT, "--prompt", "Hello", "--chat", ranks=2, check=True)
    assert finished.stdout.strip()


@pytest.mark.parametrize("after", [0, 1, 7, 14, 15, 17, 27])
def test_an_interrupted_split_resumes_in_the_slabs_or_in_the_draft(after, demo, whole, tmp_path, monkeypatch):
    blocks = 6 * 2 + 3
    with monkeypatch.context() as patch:
        done = interrupt(patch, after)
        with pytest.raises(Interrupted):
            drafted(demo, tmp_path / "slabs")
    assert (tmp_path / "slabs" / MANIFEST).exists() == (after >= blocks)
    assert not (tmp_path / "slabs" / DRAFT / MANIFEST).exists()
    with monkeypatch.context() as patch:
        redone = interrupt(patch, 100)
        drafted(demo, tmp_path / "slabs")
    layers = sum(name.startswith("layers.") for name in done[:blocks])
    if after < blocks:
        assert len(redone) == 2 * blocks - layers  # of the slabs the rest, of the draft all
    else:
        assert len(redone) == 2 * blocks - after
    assert files_of(tmp_path / "slabs") == files_of(whole)


def test_where_the_draft_alone_is_missing_it_is_written_alone(demo, whole, slabs, capsys):
    forget_draft(slabs)
    before = {path: path.stat().st_mtime_ns for path in slabs.iterdir()}
    drafted(demo, slabs)
    assert {path: path.stat().st_mtime_ns for path in slabs.iterdir() if path.name != DRAFT} == before
    assert files_of(slabs) == files_of(whole)
    shown = capsys.readouterr().err
    assert "draft: 100%" in shown
    assert "split:" not in shown


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--ratios", "2,1"], "partition"),
        (["--dtype", "float16"], "dtype"),
        (["--dtype", "int8"], "dtype"),
    ],
)
def test_slabs_that_were_split_otherwise_get_no_draft(options, what, demo, slabs):
    forget_draft(slabs)
    with pytest.raises(UserError, match=rf"slabs with another {what}; give the options that they were split with"):
        drafted(demo, slabs, *options)
    assert not (slabs / DRAFT).exists()


def test_slabs_of_other_weights_get_no_draft(demo, slabs, tmp_path):
    forget_draft(slabs)
    other = shutil.copytree(demo, tmp_path / "other")
    tensors = load_file(other / MODEL)
    tensors["model.layers.4.mlp.down_proj.weight"][100, 300] += 1
    save_file(tensors, other / MODEL)
    with pytest.raises(UserError, match=r"weights in .*other are not those that .*slabs was split from; give --force"):
        drafted(other, slabs)
    assert not (slabs / DRAFT / MANIFEST).exists()
    with pytest.raises(TpiError, match=r"draft has no manifest\.json"):
        verify([str(slabs)])
    drafted(other, slabs, "--force")
    verify([str(slabs), "--checkpoint", str(other)])


def test_whole_slabs_with_a_draft_are_replaced_by_force_alone(demo, whole, slabs):
    with pytest.raises(UserError, match="is not empty; name another directory, or give --force"):
        drafted(demo, slabs)
    assert files_of(slabs) == files_of(whole)
    drafted(demo, slabs, "--force", ranks=4)
    assert len(open_draft(slabs, open_slabs(slabs)[0])) == 4
    verify([str(slabs), "--checkpoint", str(demo)])


def test_force_leaves_no_draft_of_what_was_there(demo, slabs):
    (slabs / DRAFT / "notes.txt").write_text("mine")
    split([str(demo), str(slabs), "--ranks", "4", "--force"])
    assert not has_draft(slabs)
    assert [path.name for path in (slabs / DRAFT).iterdir()] == ["notes.txt"]
    verify([str(slabs)])


def test_force_after_an_interrupted_draft_leaves_nothing_of_it(demo, demo_slabs, slabs, monkeypatch):
    forget_draft(slabs)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(Interrupted):
            drafted(demo, slabs)
    assert (slabs / DRAFT / JOURNAL).exists()
    split([str(demo), str(slabs), "--ranks", "2", "--force"])
    assert files_of(slabs) == files_of(demo_slabs(2))


def test_room_for_the_draft_is_looked_for_before_anything_is_written(demo, tmp_path, monkeypatch):
    free = sum(path.stat().st_size for path in demo.glob("*.safetensors")) + MIB  # enough for the slabs alone
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(cutting.shutil, "disk_usage", lambda path: usage)
    split([str(demo), str(tmp_path / "alone"), "--ranks", "2"])
    with pytest.raises(UserError, match=r"the slabs need \d\.\d+ MiB, but the disk of .* has only"):
        drafted(demo, tmp_path / "slabs")
    assert not (tmp_path / "slabs" / DRAFT).exists()


@pytest.mark.parametrize(
    ("dtype", "options", "exact"),
    [("int4", "--dtype int4", "int4 by 32"), ("int8", "--dtype int4", "int4 by 32"), ("int8", "--dtype int8", "int8")],
)
def test_a_draft_that_would_be_no_smaller_is_refused(dtype, options, exact, demo, tmp_path):
    words = f"--with-draft {dtype} is for slabs with more bits a weight, but the layers of these are {exact}"
    with pytest.raises(UserError, match=words):
        drafted(demo, tmp_path / "slabs", *options.split(), dtype=dtype)
    assert not (tmp_path / "slabs").exists()


def test_a_checkpoint_of_4_bits_gets_a_draft_only_if_it_is_not_kept(checkpoints, tmp_path):
    def pack(weight):
        matrix = published.Quantized.of(weight, 4)
        return published.gptq(matrix), matrix.weight()

    published.publish(checkpoints["llama"], tmp_path / "gptq", published.gptq_config(), pack)
    with pytest.raises(UserError, match=r"the layers of these are int4 by 32.*, and a draft would be no smaller"):
        drafted(tmp_path / "gptq", tmp_path / "slabs")
    drafted(tmp_path / "gptq", tmp_path / "slabs", "--dtype", "bfloat16")
    verify([str(tmp_path / "slabs")])


def test_mixtures_of_experts_get_no_draft(demo_moe, tmp_path):
    with pytest.raises(UserError, match="not built for mixtures of experts: a draft must fit into memory whole"):
        drafted(demo_moe, tmp_path / "slabs")
    assert not (tmp_path / "slabs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--with-draft int2", "--with-draft: invalid choice: 'int2'"),
        ("--with-draft int8 --zero-points", "--zero-points is for int4, not for --dtype keep"),
    ],
)
def test_mistakes_on_the_command_line_are_named(options, words, demo, tmp_path):
    with pytest.raises(UserError) as refusal:
        split([str(demo), str(tmp_path / "slabs"), "--ranks", "2", *options.split()])
    assert words in str(refusal.value)


@pytest.mark.parametrize("rank", [0, 1])
def test_verify_names_a_corrupted_draft(rank, slabs):
    path = slab_path(slabs / DRAFT, rank)
    extent = open_slabs(slabs / DRAFT)[rank].blocks["layers.3.feed_forward"]
    damaged = bytearray(path.read_bytes())
    damaged[extent.offset + extent.nbytes // 2] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(TpiError, match=rf"block layers\.3\.feed_forward of slab .*draft/{path.name} has checksum"):
        verify([str(slabs)])


def test_verify_tells_of_the_draft_and_how_far_it_is_from_the_checkpoint(whole, demo, capsys):
    verify([str(whole), "--checkpoint", str(demo)])
    shown = capsys.readouterr()
    assert "2 slabs and 2 of their draft are intact and equal the checkpoint but for rounding: draft/" in shown.err
    names = [line.split()[0] for line in shown.out.splitlines()[1:]]
    assert len(names) == 6 * 7 + 1
    assert all(name.startswith("draft/") for name in names)


def test_verify_finds_a_draft_of_other_slabs(slabs, demo, tmp_path):
    drafted(demo, tmp_path / "other", "--ratios", "2,1")
    forget_draft(slabs)
    shutil.copytree(tmp_path / "other" / DRAFT, slabs / DRAFT)
    with pytest.raises(UserError, match=r"draft's slab .*draft/rank0000\.h5 has another partition than .*rank0000"):
        verify([str(slabs)])


def test_inspect_shows_the_draft(slabs, capsys):
    inspect([str(slabs)])
    lines = capsys.readouterr().out.splitlines()
    formats = "int4 (layers int4 by 32, head int8 by 32, embedding bfloat16, vectors bfloat16)"
    assert lines[4] == f"draft: {formats}"
    assert [line.split()[:4] for line in lines[6:]] == [line.split()[:4] for line in lines[2:4]]
    inspect([str(slabs), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [rank["heads"] for rank in shown["draft"]["ranks"]] == [rank["heads"] for rank in shown["ranks"]]
    assert shown["draft"]["dtype"] == Manifest.load(slabs / DRAFT).dtype == "int4"
    (slabs / DRAFT / MANIFEST).unlink()
    inspect([str(slabs)])
    assert capsys.readouterr().out.splitlines()[4] == "draft: not complete; split again"
    forget_draft(slabs)
    inspect([str(slabs)])
    assert "draft" not in capsys.readouterr().out
