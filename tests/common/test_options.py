"""The command line of generate: what it means, and every mistake that is named."""

import json
from pathlib import Path

import pytest

from tpi_mpi.cli.arguments import generate_parser, parse_generate
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.machine import ALLREDUCES, MACHINE_KEYS, MachineOptions
from tpi_mpi.common.options.programs import GenerateOptions
from tpi_mpi.common.options.sampling import SAMPLING_KEYS, SamplingOptions
from weights_tools.scatter import parse_scatter


def test_defaults_are_greedy_and_automatic():
    options = parse_generate(["slabs", "--prompt", "hello"])
    assert options.sampling == SamplingOptions()
    assert options.sampling.temperature == 0
    assert options.machine == MachineOptions(memory=None, window=None, threads=None, allreduce="star")


def test_everything_is_taken_from_the_command_line():
    line = "slabs --prompts p.jsonl --output o.jsonl --chat --system S --logprobs --max-new-tokens 7 --temperature 0.5"
    line += " --prompt-logprobs --top-logprobs 6 --skip-bad"
    line += " --top-k 3 --top-p 0.9 --repetition-penalty 1.1 --seed 4 --stop A --stop B --memory 3GiB --window 2"
    line += " --min-p 0.05 --presence-penalty 1.5 --frequency-penalty -0.5 --logit-bias 9=-100 --logit-bias 4=2.5"
    line += " --json-schema s.json --allreduce mpi --threads 2 --report r.json --trace t.json"
    options = parse_generate(line.split())
    biases = ((4, 2.5), (9, -100.0))
    assert options.sampling == SamplingOptions(7, 0.5, 3, 0.9, 1.1, 4, ("A", "B"), True, 6, 0.05, 1.5, -0.5, biases)
    assert options.json_schema == Path("s.json")
    machine = options.machine
    assert (machine.memory, machine.window, machine.threads, machine.allreduce) == (3 * 1024**3, 2, 2, "mpi")
    assert (machine.report, machine.trace) == (Path("r.json"), Path("t.json"))
    assert (options.prompts, options.output, options.system) == ("p.jsonl", "o.jsonl", "S")
    assert (options.chat, options.logprobs, options.skip_bad) == (True, True, True)


def test_what_travels_between_ranks_and_how_is_taken_too():
    machine = parse_generate("slabs --prompt a --allreduce auto --wire int8 --no-overlap --timeout 7.5".split()).machine
    assert (machine.allreduce, machine.wire, machine.overlap, machine.timeout) == ("auto", "int8", False, 7.5)
    machine = parse_generate("slabs --prompt a".split()).machine
    assert (machine.wire, machine.overlap, machine.timeout) == ("float32", True, 60)


def test_every_allreduce_that_can_be_asked_for_exists():
    from tpi_mpi.comm.allreduce.algorithms import ALGORITHMS

    assert set(ALLREDUCES) == set(ALGORITHMS)


def test_help_names_every_option(capsys):
    generate_parser().print_help()
    text = capsys.readouterr().out
    own = GenerateOptions.__dataclass_fields__.keys() - {"sampling", "machine", "slabs"}
    for name in {*own, *SAMPLING_KEYS, *MACHINE_KEYS} - {"grammar"}:  # which prompts tell by themselves
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("slabs", "either --prompt TEXT or --prompts FILE"),
        ("slabs --prompt a --prompts b", "either --prompt TEXT or --prompts FILE"),
        ("--prompt a", "SLABS"),
        ("slabs --prompt a --bogus", "--bogus; see --help"),
        ("slabs --prom a", "--prom"),
        ("slabs --prompt a --memory lots", "size 'lots' is not a positive number"),
        ("slabs --prompt a --allreduce ring", "invalid choice: 'ring'"),
        ("slabs --prompt a --wire int4", "invalid choice: 'int4'"),
        ("slabs --prompt a --wire int8 --allreduce mpi", "--wire int8 cannot be used with --allreduce mpi"),
        ("slabs --prompt a --timeout 0", "--timeout is 0.0; at least 1"),
        ("slabs --prompt a --system s", "--system needs --chat"),
        ("slabs --prompt a --skip-bad", "--skip-bad needs --prompts FILE"),
        ("slabs --prompt a --logprobs", "--logprobs are written to the output file; give --output FILE too"),
        ("slabs --prompt a --prompt-logprobs", "--prompt-logprobs are written to the output file; give --output FILE"),
        ("slabs --prompt a --top-logprobs 2", "--top-logprobs are written to the output file; give --output FILE too"),
        ("slabs --prompts a --top-logprobs 101", "top_logprobs is 101; a whole number from 0 to 100 is needed"),
        ("slabs --prompts a --top-logprobs -1", "top_logprobs is -1; a whole number from 0 to 100 is needed"),
        ("slabs --prompt a --window 0", "--window is 0; at least 1"),
        ("slabs --prompt a --threads -1", "--threads is -1; at least 1"),
        ("slabs --prompt a --max-new-tokens 0", "max_new_tokens is 0; at least 1 is needed, or 0 together with"),
        ("slabs --prompt a --max-new-tokens -1", "max_new_tokens is -1; a whole number of at least 1"),
        ("slabs --prompt a --temperature -1", "temperature is -1.0; a number from 0 up"),
        ("slabs --prompt a --temperature nan", "temperature is nan"),
        ("slabs --prompt a --top-k 0", "top_k is 0"),
        ("slabs --prompt a --top-p 1.5", "top_p is 1.5; a number from 0 to 1"),
        ("slabs --prompt a --top-p 0", "a number greater than 0 is needed"),
        ("slabs --prompt a --repetition-penalty 0", "a number from 0.01 to 100 is needed"),
        ("slabs --prompt a --seed -1", "seed is -1"),
        ("slabs --prompt a --min-p 2", "min_p is 2.0; a number from 0 to 1 is needed"),
        ("slabs --prompt a --presence-penalty 2.5", "presence_penalty is 2.5; a number from -2 to 2 is needed"),
        ("slabs --prompt a --frequency-penalty nan", "frequency_penalty is nan; a number from -2 to 2 is needed"),
        ("slabs --prompt a --logit-bias 5", "'5' is not ID=BIAS, as in 50256=-100"),
        ("slabs --prompt a --logit-bias 5=101", "logit_bias of token 5 is 101.0; a number from -100 to 100 is needed"),
        ("slabs --prompt a --logit-bias x=1", "logit_bias has the token id 'x'; a whole number of at least 0"),
    ],
)
def test_mistakes_are_named(line, words):
    with pytest.raises(UserError) as refusal:
        parse_generate(line.split())
    assert words in str(refusal.value)


def test_an_empty_stop_text_is_refused():
    with pytest.raises(UserError, match="at least one character"):
        SamplingOptions(stop=("",))


def test_one_stop_text_may_be_given_without_a_list():
    assert SamplingOptions().override({"stop": "end"}).stop == ("end",)
    with pytest.raises(UserError, match="a string or a list of strings"):
        SamplingOptions().override({"stop": 7})


@pytest.mark.parametrize("timeout", ["nan", "inf", "0", "-3", "0.5"])
def test_a_timeout_is_a_number_of_seconds(timeout):
    with pytest.raises(UserError, match=f"--timeout is {float(timeout)}; .*at least 1 is needed"):
        parse_generate(["slabs", "--prompt", "a", "--timeout", timeout])
    with pytest.raises(UserError, match=f"--timeout is {float(timeout)}; .*at least 1 is needed"):
        parse_scatter(["slabs", "target", "--timeout", timeout])


def test_no_new_tokens_are_fine_where_the_prompt_is_scored():
    options = parse_generate("slabs --prompts a --prompt-logprobs --max-new-tokens 0".split())
    assert (options.sampling.max_new_tokens, options.sampling.prompt_logprobs) == (0, True)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(UserError, match=f"prompt_logprobs is {value!r}; true or false is needed"):
        SamplingOptions().override({"prompt_logprobs": value})


@pytest.mark.parametrize("value", [None, True, 1.5])
def test_how_many_tokens_have_log_probabilities_is_a_whole_number(value):
    with pytest.raises(UserError, match=f"top_logprobs is {value!r}; a whole number from 0 to 100"):
        SamplingOptions().override({"top_logprobs": value})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"kv": "int8"}, "--kv is 'int8'; it is one of float32, bfloat16, float16"),
        ({"wire": "fp8"}, "--wire is 'fp8'; it is one of float32, bfloat16"),
        ({"allreduce": "ring"}, "--allreduce is 'ring'; it is one of star"),
        ({"activations": "int4"}, "--activations is 'int4'; it is one of int16, int8"),
    ],
)
def test_programs_in_python_may_choose_no_more_than_the_command_line(option, words):
    with pytest.raises(UserError) as refusal:
        MachineOptions(**option)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"logit_bias": 5}, "logit_bias is 5; an object with token ids and numbers is needed"),
        ({"logit_bias": None}, "logit_bias is None; an object"),
        ({"logit_bias": {"-1": 1}}, "logit_bias has the token id '-1'; a whole number of at least 0 is needed"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias has the token id '999"),
        ({"logit_bias": [[True, 1]]}, "logit_bias has the token id True"),
        ({"logit_bias": {"7": True}}, "logit_bias of token 7 is True; a number from -100 to 100 is needed"),
        ({"logit_bias": {"7": float("nan")}}, "logit_bias of token 7 is nan"),
        ({"json_schema": "{"}, "json_schema is '{'; a JSON object that is a schema is needed"),
        ({"json_schema": "[]"}, "json_schema is '[]'"),
        ({"json_schema": 5}, "json_schema is 5"),
        ({"json_schema": {"const": float("nan")}}, "json_schema is {'const': nan}"),
        ({"json_schema": "[" * 100_000}, "a JSON object that is a schema is needed"),
    ],
)
def test_what_is_no_bias_and_no_schema_is_named(values, words):
    with pytest.raises(UserError) as refusal:
        SamplingOptions().override(values)
    assert words in str(refusal.value)


def test_options_have_one_form_however_they_are_given():
    schema = {"type": "object", "required": ["b", "a"], "properties": {"b": {}, "a": {}}}
    given = SamplingOptions(logit_bias={9: 1, 4: -2.5}, json_schema=schema)
    assert given == SamplingOptions().override({"logit_bias": {"4": -2.5, "9": 1}, "json_schema": json.dumps(schema)})
    assert given in {given}
    assert given.logit_bias == ((4, -2.5), (9, 1.0))
    assert list(json.loads(given.json_schema)["properties"]) == ["b", "a"]
