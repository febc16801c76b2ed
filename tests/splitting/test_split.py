"""Laws of the split: every byte arrives, an interrupted one resumes, and what cannot be split is refused by name."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, run_module
from interrupting import Interrupted, interrupt
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.common.units import GIB
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights import pages
from tpi_mpi.weights.slabs.directory import Manifest, slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from weights_tools.common.target_directory import JOURNAL, SMALL_FILES
from weights_tools.split import split
from weights_tools.splitting import cut as cutting
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.verify import verify

MODEL = "model.safetensors"


def shard(directory, count: int) -> None:
    """Rewrites a checkpoint of one file as several and an index."""
    tensors = load_file(directory / MODEL)
    names, weight_map = sorted(tensors), {}
    for index in range(count):
        file = f"model-{index + 1:05d}-of-{count:05d}.safetensors"
        own = names[index::count]
        save_file({name: tensors[name] for name in own}, directory / file)
        weight_map |= dict.fromkeys(own, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / MODEL).unlink()


def change_tensors(directory, change) -> None:
    tensors = load_file(directory / MODEL)
    change(tensors)
    save_file(tensors, directory / MODEL)


def change_config(directory, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "name", ["llama", "llama-mqa", "llama-biases-tied", "mistral-sliding", "qwen2", "qwen3", "phi3"]
)
@pytest.mark.parametrize("arguments", ["--ranks 1", "--ranks 3", "--ranks 4 --ratios 1,2,3,1", "--ranks 8"])
def test_rejoined_slabs_equal_the_checkpoint_bit_for_bit(name, arguments, checkpoints, tmp_path, capsys):
    split([str(checkpoints[name]), str(tmp_path / "slabs"), *arguments.split()])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(checkpoints[name])])
    assert "equal the checkpoint" in capsys.readouterr().err


def test_shards_are_split_as_one_file_is(checkpoints, tmp_path):
    sharded = checkpoints.fresh("llama", tmp_path / "sharded")
    shard(sharded, 3)
    split([str(sharded), str(tmp_path / "a"), "--ranks", "2"])
    split([str(checkpoints["llama"]), str(tmp_path / "b"), "--ranks", "2"])
    for rank in range(2):
        assert slab_path(tmp_path / "a", rank).read_bytes() == slab_path(tmp_path / "b", rank).read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dtype_may_be_asked_for(dtype, checkpoints, tmp_path):
    split([str(checkpoints["llama"]), str(tmp_path / "slabs"), "--ranks", "2", "--dtype", dtype])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(checkpoints["llama"])])
    assert read_slab(slab_path(tmp_path / "slabs", 1)).dtype == dtype


def test_a_weight_that_the_dtype_cannot_hold_is_named(checkpoints, tmp_path):
    checkpoint = checkpoints.fresh("llama", tmp_path / "checkpoint")
    put(Q, torch.full((64, 64), 1e5))(checkpoint)
    with pytest.raises(
        UserError, match=r"layers\.1\.self_attn\.q_proj\.weight has a weight of 100000, but float16 only reaches 65504"
    ):
        split([str(checkpoint), str(tmp_path / "slabs"), "--ranks", "2", "--dtype", "float16"])


def test_slabs_need_the_checkpoint_no_longer(demo, tmp_path):
    checkpoint = shutil.copytree(demo, tmp_path / "checkpoint")
    run_module("weights_tools.split", checkpoint, tmp_path / "slabs", "--ranks", 1, check=True)
    shutil.rmtree(checkpoint)
    finished = run_module("tpi_mpi.generate", tmp_path / "slabs", "--prompt", "Hello", "--chat", check=True)
    assert "tensor parallelism" in finished.stdout


def test_progress_and_nothing_else_is_written_to_the_terminal(demo, tmp_path):
    finished = run_module("weights_tools.split", demo, tmp_path / "slabs", "--ranks", 2, check=True)
    assert finished.stdout == ""
    assert "100%" in finished.stderr
    names = {path.name for path in (tmp_path / "slabs").iterdir()}
    files = "rank0000.h5 rank0001.h5 manifest.json config.json generation_config.json tokenizer.json"
    assert names == {*files.split(), "tokenizer_config.json"}


def interrupted_split(checkpoint, target, monkeypatch, after: int, ranks: int = 2, options=()) -> list[str]:
    """Begins a split and stops it after ``after`` blocks; returns their names."""
    with monkeypatch.context() as patch:
        done = interrupt(patch, after)
        with pytest.raises(Interrupted):
            split([str(checkpoint), str(target), "--ranks", str(ranks), *options])
    return done


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_an_interrupted_split_resumes_and_never_looks_finished(after, demo, demo_slabs, tmp_path, monkeypatch, capsys):
    target, redone = tmp_path / "slabs", []
    done = interrupted_split(demo, target, monkeypatch, after)
    with pytest.raises(UserError, match="was not completed"):
        Manifest.load(target)
    assert not slab_path(target, 0).exists()

    cut_block = cutting._Cutting.cut_block
    monkeypatch.setattr(cutting._Cutting, "cut_block", lambda *a: (redone.append(a[1].name), cut_block(*a)))
    split([str(demo), str(target), "--ranks", "2"])
    assert not set(done) & set(redone)
    assert ("is resumed" in capsys.readouterr().err) == (after > 0)
    for rank in range(2):
        assert slab_path(target, rank).read_bytes() == slab_path(demo_slabs(2), rank).read_bytes()
    assert not (target / JOURNAL).exists()


@pytest.mark.parametrize("other", [[], ["--dtype", "int8"], ["--dtype", "int4", "--group", "64"]])
def test_a_split_that_rounds_resumes_unless_other_formats_are_asked_for(other, demo, tmp_path, monkeypatch, capsys):
    asked = ["--ranks", "2", "--dtype", "int4"]
    interrupted_split(demo, tmp_path / "resumed", monkeypatch, after=5, options=other or asked[2:])
    for target in ("resumed", "whole"):
        split([str(demo), str(tmp_path / target), *asked])
    assert ("resumed: 5 of " in capsys.readouterr().err) == (not other)
    for rank in range(2):
        resumed, whole = (slab_path(tmp_path / target, rank).read_bytes() for target in ("resumed", "whole"))
        assert resumed == whole


def test_a_killed_split_resumes(tmp_path):
    shape = ["--like", "tinyllama-1.1b", "--layers", "2"]
    run_module("weights_tools.synth", tmp_path / "checkpoint", *shape, check=True)
    command = [sys.executable, "-m", "weights_tools.split", str(tmp_path / "checkpoint"), str(tmp_path / "slabs")]
    process = subprocess.Popen([*command, "--ranks", "2"], stderr=subprocess.DEVNULL)
    while process.poll() is None and not _journal_lines(tmp_path / "slabs") > 2:
        pass
    process.kill()
    process.wait()
    finished = run_module("weights_tools.split", tmp_path / "checkpoint", tmp_path / "slabs", "--ranks", 2, check=True)
    assert "is resumed" in finished.stderr
    run_module("weights_tools.verify", tmp_path / "slabs", "--checkpoint", tmp_path / "checkpoint", check=True)


def _journal_lines(directory) -> int:
    try:
        return (directory / JOURNAL).read_bytes().count(b"\n")
    except OSError:
        return 0


def test_an_interrupted_split_with_other_arguments_starts_clean(demo, tmp_path, monkeypatch):
    interrupted_split(demo, tmp_path / "slabs", monkeypatch, after=3, ranks=4)
    split([str(demo), str(tmp_path / "slabs"), "--ranks", "2"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(demo)])
    assert len(list((tmp_path / "slabs").glob("*rank*"))) == 2


def test_a_resumed_split_does_not_trust_what_is_not_on_the_disk(demo, tmp_path, monkeypatch):
    target = tmp_path / "slabs"
    interrupted_split(demo, target, monkeypatch, after=5)
    partial = target / ".rank0001.h5.partial"
    extent = read_slab(partial).blocks["layers.1.attention"]
    with open(partial, "r+b") as file:
        file.seek(extent.offset)
        file.write(bytes(64))
    split([str(demo), str(target), "--ranks", "2"])
    verify([str(target), "--checkpoint", str(demo)])


def test_memory_stays_bounded_whatever_the_model(tmp_path):
    run_module("weights_tools.synth", tmp_path / "checkpoint", "--like", "llama-2-7b", "--layers", 2, check=True)
    assert sum(path.stat().st_size for path in (tmp_path / "checkpoint").iterdir()) > 1.2 * GIB
    program = (
        "import sys; from tpi_mpi.common.memory import peak_rss; from weights_tools.split import split;"
        "split(sys.argv[1:]); print(peak_rss())"
    )
    arguments = [str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "2"]
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert int(finished.stdout) < 0.75 * GIB


def test_the_same_checkpoint_has_the_same_digest_for_any_partition(demo_slabs):
    assert Manifest.load(demo_slabs(1)).source_digest == Manifest.load(demo_slabs(2)).source_digest


def test_force_replaces_slabs_of_another_split(demo, tmp_path):
    split([str(demo), str(tmp_path), "--ranks", "4", "--force"])
    split([str(demo), str(tmp_path), "--ranks", "2", "--force"])
    assert sorted(path.name for path in tmp_path.glob("rank*")) == ["rank0000.h5", "rank0001.h5"]
    verify([str(tmp_path), "--checkpoint", str(demo)])


def small_files_of(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name in SMALL_FILES}


def give_small_files(directory) -> None:
    """All that the checkpoint of another model may have."""
    for name in SMALL_FILES:
        if name != "config.json":
            (directory / name).write_text(f'{{"of": "another model, {name}"}}')


def test_force_leaves_nothing_of_the_model_that_was_there(demo, checkpoints, tmp_path):
    other = checkpoints.fresh("llama", tmp_path / "other")
    give_small_files(other)
    split([str(other), str(tmp_path / "slabs"), "--ranks", "2"])
    assert set(small_files_of(tmp_path / "slabs")) == set(SMALL_FILES)
    split([str(demo), str(tmp_path / "slabs"), "--ranks", "2", "--force"])
    assert small_files_of(tmp_path / "slabs") == small_files_of(demo)


def test_force_does_not_spoil_a_checkpoint(demo, checkpoints, tmp_path):
    other = checkpoints.fresh("llama", tmp_path / "other")
    give_small_files(other)
    before = small_files_of(other)
    with pytest.raises(UserError, match="holds a checkpoint, whose small files would be replaced"):
        split([str(demo), str(other), "--ranks", "2", "--force"])
    assert small_files_of(other) == before


def test_a_split_after_an_interrupted_one_of_another_model_has_its_own_small_files(
    demo, checkpoints, tmp_path, monkeypatch
):
    other = checkpoints.fresh("llama", tmp_path / "other")
    give_small_files(other)
    interrupted_split(other, tmp_path / "slabs", monkeypatch, after=2)
    split([str(demo), str(tmp_path / "slabs"), "--ranks", "2"])
    assert small_files_of(tmp_path / "slabs") == small_files_of(demo)


def test_a_target_that_is_not_empty_is_refused_and_left_alone(demo, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty; name another directory, or give --force"):
        split([str(demo), str(tmp_path), "--ranks", "2"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    split([str(demo), str(tmp_path), "--ranks", "2", "--force"])
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_too_little_disk_is_named_with_both_sizes(demo, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1024**2)
    monkeypatch.setattr(cutting.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"need \d\.\d+ MiB, but the disk of .* has only 1\.00 MiB left"):
        split([str(demo), str(tmp_path / "slabs"), "--ranks", "2"])


def test_a_disk_that_fills_up_is_named(demo, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"the disk filled up while .*rank0000"):
        split([str(demo), str(tmp_path / "slabs"), "--ranks", "2"])


def remove(name):
    return lambda directory: change_tensors(directory, lambda tensors: tensors.pop(name))


def put(name, tensor):
    return lambda directory: change_tensors(directory, lambda tensors: tensors.update({name: tensor}))


def lose_a_shard(directory):
    shard(directory, 3)
    (directory / "model-00002-of-00003.safetensors").unlink()


def name_a_file_outside(directory):
    shard(directory, 1)
    index = directory / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": dict.fromkeys(weight_map, "../elsewhere.safetensors")}))


Q = "model.layers.1.self_attn.q_proj.weight"
EMBEDDING_SOURCE = "model.embed_tokens.weight"
SPOILT = {
    "no config": (lambda d: (d / "config.json").unlink(), r"config\.json does not exist"),
    "unknown type": (lambda d: change_config(d, model_type="gpt2"), "'gpt2'; the supported ones are llama, mistral"),
    "no weights": (lambda d: (d / MODEL).unlink(), r"neither model\.safetensors nor"),
    "pickled": (lambda d: (d / MODEL).rename(d / "pytorch_model.bin"), "only pickled weights .* safetensors"),
    "missing tensor": (remove(Q), f"lacks the tensor {Q}, which its config"),
    "other shape": (put(Q, torch.zeros(3, 64)), r"has shape \(3, 64\), but .* \(64, 64\)"),
    "other layers": (lambda d: change_config(d, num_hidden_layers=5), r"lacks the tensor model\.layers\.3.* more"),
    "extra tensor": (put("model.extra", torch.zeros(3)), r"model\.extra, which is not understood"),
    "integers": (put(Q, torch.zeros(64, 64, dtype=torch.int8)), "dtype I8; the supported"),
    "not safetensors": (lambda d: (d / MODEL).write_bytes(b"pickle"), "cannot be read as safetensors"),
    "cut off": (lambda d: os.truncate(d / MODEL, 50_000), "cannot be read as safetensors"),
    "missing shard": (lose_a_shard, "lacks model-00002-of-00003"),
    "path outside": (name_a_file_outside, "only files in the checkpoint's own directory are allowed"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_checkpoint_that_cannot_be_split_is_refused_by_name(fault, checkpoints, tmp_path):
    spoil, words = SPOILT[fault]
    checkpoint = checkpoints.fresh("llama", tmp_path / "checkpoint")
    spoil(checkpoint)
    with pytest.raises(UserError, match=words):
        split([str(checkpoint), str(tmp_path / "slabs"), "--ranks", "2"])
    assert not (tmp_path / "slabs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--ranks 9", "9 ranks are more than the model's 8 query heads; use --ranks 8 or fewer"),
        ("--ranks 0", "--ranks is 0; at least 1"),
        ("--ranks 2 --ratios 1,2,3", "3 ratios for 2 ranks"),
        ("--ranks 2 --ratios 1,x", "--ratios: '1,x' is not a list of numbers, as 2,1,1 is"),
        ("--ranks 2 --dtype float16 --zero-points", "--zero-points is for int4, not for --dtype float16"),
        ("--ranks 2 --group 64", "--group 64 is for int8 and int4, not for --dtype keep"),
        ("--ranks 2 --dtype int4 --group 48", "--group: invalid choice: 48"),
        ("--ranks 2 --dtype int2", "invalid choice: 'int2'"),
        ("", "--ranks"),
    ],
)
def test_mistakes_on_the_command_line_are_named(arguments, words, demo, tmp_path):
    with pytest.raises(UserError) as refusal:
        split([str(demo), str(tmp_path / "slabs"), *arguments.split()])
    assert words in str(refusal.value)


def test_a_mistake_is_one_line_and_status_2(demo, tmp_path):
    finished = run_module("weights_tools.split", demo, tmp_path / "slabs", "--ranks", 99)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == "tpi_mpi: 99 ranks are more than the model's 8 query heads; use --ranks 8 or fewer\n"


def test_a_checkpoint_may_be_links_as_a_download_cache_has_them(checkpoints, tmp_path):
    directory = tmp_path / "snapshot"
    directory.mkdir()
    for path in checkpoints["llama"].iterdir():
        (directory / path.name).symlink_to(path)
    split([str(directory), str(tmp_path / "slabs"), "--ranks", "2"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(checkpoints["llama"])])


def test_a_tied_checkpoint_may_repeat_its_embedding_but_nothing_else(checkpoints, tmp_path):
    checkpoint = checkpoints.fresh("qwen2", tmp_path / "checkpoint")
    with safe_open(checkpoint / MODEL, "pt") as file:
        embedding = file.get_tensor("model.embed_tokens.weight")
    put("lm_head.weight", embedding.clone())(checkpoint)
    Checkpoint(checkpoint)
    put("lm_head.weight", embedding + 1)(checkpoint)
    with pytest.raises(UserError, match="set tie_word_embeddings to false"):
        Checkpoint(checkpoint)


def test_every_source_byte_is_read_once(checkpoints, tmp_path):
    for name in ("llama", "phi3", "qwen2"):
        checkpoint = Checkpoint(checkpoints[name])
        read: dict[str, list] = {}
        pieces = checkpoint.pieces

        def counted(source, start, stop, pieces=pieces, read=read):
            read.setdefault(source, []).append((start, stop))
            return pieces(source, start, stop)

        checkpoint.pieces = counted
        target = tmp_path / name
        target.mkdir()
        cutting.cut(checkpoint, target, Partition.of(checkpoint.config, 3))
        for source, shape in checkpoint.shapes.items():
            ranges = sorted(read[source])
            if checkpoint.config.tie_word_embeddings and source == EMBEDDING_SOURCE:  # once more, for its own block
                ranges.remove((0, shape[0]))
            assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
            assert ranges[-1][1] == shape[0]


def test_a_checkpoint_that_the_disk_cannot_read_is_an_error_and_no_crash(checkpoints, tmp_path, monkeypatch):
    """A page behind the end of a mapped file is as bad as one that the disk cannot deliver: touching it kills."""
    directory = checkpoints.fresh("llama", tmp_path / "checkpoint")
    monkeypatch.setattr("weights_tools.common.pieces._WEIGHTS", 16 * 64)  # of 16 rows
    pieces = Checkpoint(directory).pieces("model.embed_tokens.weight", 0, 131)
    next(pieces)
    os.truncate(directory / MODEL, 4096)
    with pytest.raises(TpiError, match=r"tensor model\.embed_tokens\.weight in .* cannot be read: .*ends too early"):
        list(pieces)


@pytest.mark.parametrize("code", [errno.EIO, errno.EFAULT])
def test_a_page_that_the_disk_cannot_deliver_is_named(code, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "populate", lambda address, length: code)
    with pytest.raises(TpiError, match=r"tensor model\.\S+ in .*model\.safetensors cannot be read: "):
        split([str(demo), str(tmp_path / "slabs"), "--ranks", "2"])


def test_without_populating_by_the_kernel_a_bad_disk_is_named_too(demo, tmp_path, monkeypatch):
    def bad(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pages, "populate", lambda address, length: errno.EINVAL)
    split([str(demo), str(tmp_path / "slabs"), "--ranks", "2"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(demo)])
    monkeypatch.setattr(os, "preadv", bad)
    with pytest.raises(TpiError, match=r"cannot be read: .*Input/output error"):
        split([str(demo), str(tmp_path / "others"), "--ranks", "2"])
