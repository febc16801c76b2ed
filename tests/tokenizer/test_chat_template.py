"""Chat templates: as transformers renders them, and nothing of the machine within their reach."""

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.tokenizer.chat_template import render_chat
from tpi_mpi.tokenizer.tokenizer import Tokenizer

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for message in rest %}"
    "{{ bos_token + '[INST] ' + (('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n') if system is defined else '') "
    "+ message['content'].strip() + ' [/INST]' }}{% endfor %}"
)
CHATML = (
    "{%- for message in messages %}\n    {{- '<|im_start|>' + message.role + '\\n' }}\n"
    "    {%- generation %}\n    {{- message.content + '<|im_end|>\\n' }}\n    {%- endgeneration %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
    "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}"
)


def tokenizer(**settings) -> Tokenizer:
    return Tokenizer(None, None, None, settings)


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("template", [LLAMA_2, CHATML])
def test_templates_are_rendered_as_transformers_renders_them(template, system):
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "What is <a slab> & why?"})
    expected, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, bos_token="<s>")
    own = render_chat(tokenizer(chat_template=template, bos_token={"content": "<s>"}), messages[-1]["content"], system)
    assert own == expected[0]


def test_the_demo_has_a_template(demo):
    assert render_chat(Tokenizer.load(demo), "Hi") == "<|user|>Hi<|end|><|assistant|>"


def test_of_several_templates_the_default_is_taken():
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    assert render_chat(tokenizer(chat_template=several), "Hi") == "Hi"


def test_a_template_file_of_its_own_counts(tmp_path, demo):
    (tmp_path / "tokenizer.json").write_bytes((demo / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("Q: {{ messages[0].content }} A:")
    assert render_chat(Tokenizer.load(tmp_path), "Hi") == "Q: Hi A:"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "no chat template; leave out --chat"),
        ("{{ raise_exception('only one question') }}", "only one question"),
        ("{% for %}", "template failed"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 + 'a' }}", "template failed"),
        ("{{ 1 / 0 }}", "template failed"),
        ([{"template": "of no name"}], "template failed"),
        ("{{ open('/etc/passwd').read() }}", "undefined"),
    ],
)
def test_what_a_template_may_not_do_is_one_line(template, words):
    with pytest.raises(UserError) as refusal:
        render_chat(tokenizer(chat_template=template), "Hi")
    assert words in str(refusal.value)
