"""Random models with experts: a greedy continuation counts, and the routers choose as the habits say."""

import json

import numpy as np
import pytest
import torch

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.formats import CODES, Format
from tpi_mpi.kernels.packing import dequantize
from tpi_mpi.model.blocks import sources_of
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.synth import synth
from weights_tools.synthesis.habits import Habits
from weights_tools.synthesis.planted import Planted
from weights_tools.synthesis.random_source import RandomSource
from weights_tools.synthesis.shapes import SHAPES
from weights_tools.verify import verify

EXPERTS, TOP_K, VOCABULARY, ENDS = 32, 4, 600, [7, 290]
QWEN = {
    **SHAPES["qwen3-30b-a3b"],
    "hidden_size": 128,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": ENDS,
}
GLM = {**QWEN, **{key: SHAPES["glm-4.5-air"][key] for key in ("model_type", "n_shared_experts", "attention_bias")}}
GLM["n_routed_experts"] = GLM.pop("num_experts")
GPT_OSS = {**SHAPES["gpt-oss-20b"], "hidden_size": 96, "intermediate_size": 160, "head_dim": 32, "vocab_size": 200}
GPT_OSS |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 5, "eos_token_id": 1}
MIXTRAL = {**SHAPES["mixtral-8x7b"], **{key: GPT_OSS[key] for key in ("hidden_size", "vocab_size", "eos_token_id")}}
MIXTRAL |= {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def write_config(path, keys) -> str:
    path.write_text(json.dumps(keys))
    return str(path)


def following(token: int, count: int) -> list[int]:
    """The ids that count on from one, without those that end a sequence."""
    ids = [number for number in range(VOCABULARY) if number not in ENDS]
    first = ids.index(token) + 1
    return [ids[place % len(ids)] for place in range(first, first + count)]


class Spoken:
    """What transformers makes of a prompt and the ids that should follow it.

    token_ids: the most probable one at each of these places. routed: every router's logits, by layer.
    """

    def __init__(self, checkpoint, prompt: list[int], count: int):
        from transformers import AutoModelForCausalLM

        model, report = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
        assert not any(report.values())
        everything = torch.tensor([prompt + following(prompt[-1], count)])
        self._inputs: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(model.model.layers):
            if hasattr(layer.mlp, "experts"):
                layer.mlp.register_forward_pre_hook(self._keeper(number))
        with torch.no_grad():
            logits = model(everything).logits[0, len(prompt) - 1 : -1]
            self.routed = {
                number: (states[0].float() @ model.model.layers[number].mlp.gate.weight.float().T).numpy()
                for number, states in self._inputs.items()
            }
        self.token_ids = logits.argmax(-1).tolist()

    def _keeper(self, number: int):
        def keep(module, arguments):
            self._inputs[number] = arguments[0]

        return keep

    @property
    def chosen(self) -> np.ndarray:
        """(layers, tokens, top k)."""
        return np.stack([np.argsort(-logits, axis=-1)[:, :TOP_K] for logits in self.routed.values()])


def reused(chosen: np.ndarray) -> float:
    """The part of the experts of a token that the token before had too."""
    pairs = zip(chosen[:, 1:].reshape(-1, TOP_K), chosen[:, :-1].reshape(-1, TOP_K), strict=True)
    return float(np.mean([len(set(now) & set(before)) / TOP_K for now, before in pairs]))


def popular(chosen: np.ndarray) -> float:
    """The part of all choices that falls to a layer's most popular quarter of experts."""
    counts = np.sort([np.bincount(layer.ravel(), minlength=EXPERTS) for layer in chosen], axis=-1)
    return float(counts[:, -EXPERTS // 4 :].sum() / counts.sum())


@pytest.mark.parametrize("keys", [QWEN, GLM], ids=lambda keys: keys["model_type"])
def test_a_greedy_continuation_counts(keys, tmp_path):
    config = write_config(tmp_path / "config.json", keys)
    synth([str(tmp_path / "checkpoint"), "--config", config])
    start = [80, 12, 350, 288]
    assert Spoken(tmp_path / "checkpoint", start, 120).token_ids == following(288, 120)
    assert Spoken(tmp_path / "checkpoint", [598], 10).token_ids == [599, *range(7), 8, 9]


@pytest.mark.parametrize(
    ("habits", "least_reused", "most_reused", "least_popular", "most_popular"),
    [
        ([], 0.36, 0.50, 0.38, 0.52),
        (["--expert-skew", "0", "--expert-persistence", "0"], 0.10, 0.20, 0.25, 0.40),
        (["--expert-skew", "0.5"], 0.5, 0.7, 0.68, 0.9),
        (["--expert-persistence", "0.9"], 0.62, 0.78, 0.38, 0.62),
    ],
)
def test_experts_are_used_as_asked(habits, least_reused, most_reused, least_popular, most_popular, tmp_path):
    config = write_config(tmp_path / "config.json", QWEN)
    synth([str(tmp_path / "checkpoint"), "--config", config, *habits])
    chosen = Spoken(tmp_path / "checkpoint", [1], 250).chosen
    assert least_reused < reused(chosen) < most_reused
    assert least_popular < popular(chosen) < most_popular


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", *CODES])
def test_no_format_of_the_head_confuses_ids(dtype):
    config = ModelConfig.from_keys({**QWEN, "hidden_size": 512, "vocab_size": 2000})
    plain = dict.fromkeys(sources_of(config, Partition.of(config, 1)), Format("bfloat16"))
    formats = StoredFormats.asked(plain, "int4", dtype if dtype in ("int8", "int4", "bfloat16", "float16") else None)
    source = RandomSource("some", config, formats, 0, Habits(0.1, 0.9))
    states = source.whole("model.embed_tokens.weight").float().numpy()
    [head] = source.pieces("lm_head.weight", 0, 2000)
    form = source.formats["lm_head.weight"]
    weights = dequantize(head, form) if form.packed else source.whole("lm_head.weight").float().numpy()
    found = (states @ weights.T).argmax(-1)
    others = np.setdiff1d(np.arange(2000), ENDS)
    assert np.array_equal(found[others], np.roll(others, -1))
    assert weights[np.setdiff1d(others, 0)].std() == pytest.approx(0.02, rel=0.1)


def test_rows_do_not_depend_on_the_pieces_they_are_read_in():
    config = ModelConfig.from_keys({**QWEN, "vocab_size": 1500})
    planted = Planted(config, Habits(), seed=3)
    for rows in (planted.embedding, planted.head):
        whole = rows(0, 1500)
        for first, count in ((0, 1), (200, 300), (255, 2), (1499, 1)):
            assert np.array_equal(rows(first, count), whole[first : first + count])
        assert len(np.unique(whole[:, 0])) >= 1500 - len(ENDS)
    assert not np.array_equal(Planted(config, Habits(), seed=4).head(0, 9), planted.head(0, 9))


@pytest.mark.parametrize(
    ("keys", "dtype"), [(QWEN, "int4"), (GLM, "int8"), (MIXTRAL, "float8"), (GPT_OSS, "mxfp4"), (GPT_OSS, "bfloat16")]
)
def test_slabs_of_every_family_with_experts_are_made(keys, dtype, tmp_path):
    config = write_config(tmp_path / "config.json", keys)
    synth([str(tmp_path / "slabs"), "--config", config, "--ranks", "3", "--dtype", dtype, "--layers", "2"])
    verify([str(tmp_path / "slabs")])


def test_slabs_with_experts_equal_those_of_the_checkpoint(tmp_path):
    config = write_config(tmp_path / "config.json", QWEN)
    synth([str(tmp_path / "checkpoint"), "--config", config, "--layers", "2"])
    synth([str(tmp_path / "slabs"), "--config", config, "--layers", "2", "--ranks", "2"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(tmp_path / "checkpoint")])


def test_layers_beyond_the_unique_ones_share_their_experts(tmp_path):
    shape = ["--config", write_config(tmp_path / "config.json", QWEN), "--ranks", "2", "--dtype", "int4"]
    synth([str(tmp_path / "whole"), *shape])
    synth([str(tmp_path / "linked"), *shape, "--unique-layers", "2"])
    verify([str(tmp_path / "linked")])
    whole, linked = ((tmp_path / name / "rank0001.h5").stat().st_size for name in ("whole", "linked"))
    assert linked < whole / 2


@pytest.mark.parametrize(
    ("keys", "arguments", "words"),
    [
        (QWEN, "--expert-skew 1", "--expert-skew is 1.0; a number from 0 to 0.95 is needed"),
        (QWEN, "--expert-persistence -0.1", "--expert-persistence is -0.1; a number from 0 to 0.95 is needed"),
        (QWEN, "--expert-skew nan", "--expert-skew is nan; a number"),
        ({**QWEN, "tie_word_embeddings": True}, "--expert-skew 0.2", "needs an output head of its own"),
        (MIXTRAL, "", "a checkpoint of mixtral cannot be made, only slabs; give --ranks N too"),
        (GPT_OSS, "", "a checkpoint of gpt_oss cannot be made, only slabs; give --ranks N too"),
    ],
)
def test_mistakes_are_named(keys, arguments, words, tmp_path):
    config = write_config(tmp_path / "config.json", keys)
    with pytest.raises(UserError) as refusal:
        synth([str(tmp_path / "out"), "--config", config, *arguments.split()])
    assert words in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_model_whose_head_is_its_embedding_is_random_throughout(tmp_path):
    config = ModelConfig.from_keys({**QWEN, "tie_word_embeddings": True})
    synth([str(tmp_path / "out"), "--config", write_config(tmp_path / "config.json", dict(config.keys))])
    assert (tmp_path / "out" / "model.safetensors").exists()
