"""Trains a demo model on the handbook beside this file, and writes it in Hugging Face layout.

    python jobs/demo/train.py [--model 3m] [--out jobs/demo/handbook-3m]

Cost: about ten minutes on two cores. The result is a Llama of six layers that knows the handbook's questions and
answers, and nothing else. Needs transformers (make test installs it). Seeded: the same machine and versions give the
same weights.

With --model moe it is a Qwen3-MoE of four layers, each with sixteen experts, through two of which a token goes: trained
in the same way, but for a loss that also keeps any expert from being left out, in about six minutes on one core.

With --model draft it is a Llama of two narrow layers, with the tokenizer of handbook-3m beside this file, for which it
is to draft: to propose tokens that handbook-3m then verifies. It learns the same answers, since handbook-3m gives them
to the letter; how often it agrees with handbook-3m is measured at the end. About two and a half minutes on one core.
"""

import argparse
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

HERE = Path(__file__).parent
VERIFIER = HERE / "handbook-3m"  # what the draft drafts for
SEED = 20241001
VOCABULARY = 1024
BATCH, STEPS, PEAK_RATE = 24, 1500, 2.5e-3
TEMPERATURE = 0.2  # for whoever names none: so small a model strays soon

END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}" + END + "{% endif %}"
    "{% if message['role'] == 'assistant' %}" + ASSISTANT + "{{ message['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


def read_handbook(path: Path) -> list[tuple[list[str], str]]:
    """The handbook's entries: the ways to ask a question, and its answer."""
    entries = []
    for section in path.read_text(encoding="utf-8").split("\n## ")[1:]:
        head, answer = section.strip().split("\n\n", 1)
        questions = [line.removeprefix("- ") for line in head.splitlines()]
        entries.append((questions, " ".join(answer.split())))
    return entries


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END, USER, ASSISTANT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def vary(question: str, chance: random.Random) -> str:
    """The question as people type it: with no question mark, in lower case, with words in front or one left out."""
    if chance.random() < 0.3:
        question = question.rstrip("?.!")
    if chance.random() < 0.3:
        question = question.lower()
    if chance.random() < 0.15:
        question = chance.choice(["Please tell me: ", "Hi, ", "I wonder: ", "Quick question: "]) + question
    words = question.split()
    if len(words) > 4 and chance.random() < 0.1:
        del words[chance.randrange(len(words))]
    return " ".join(words)


def examples(entries: list, tokenizer: Tokenizer, chance: random.Random) -> Iterator[list[int]]:
    """Yields conversations without end; now and then an answer alone, so that plain text is continued too."""
    while True:
        order = list(entries)
        chance.shuffle(order)
        for questions, answer in order:
            if chance.random() < 0.15:
                text = answer + END
            else:
                text = f"{USER}{vary(chance.choice(questions), chance)}{END}{ASSISTANT}{answer}{END}"
            yield tokenizer.encode(text).ids


def batches(stream: Iterator[list[int]], tokenizer: Tokenizer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields input ids and labels, both (BATCH, T); padding and questions are masked out of the loss."""
    assistant = tokenizer.token_to_id(ASSISTANT)
    while True:
        rows = [next(stream) for _ in range(BATCH)]
        width = max(map(len, rows))
        ids = torch.zeros(BATCH, width, dtype=torch.long)
        labels = torch.full((BATCH, width), -100)
        for row, tokens in enumerate(rows):
            first = tokens.index(assistant) + 1 if assistant in tokens else 0
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, first : len(tokens)] = ids[row, first : len(tokens)]
        yield ids, labels


def new_llama(tokenizer: Tokenizer, **shape) -> PreTrainedModel:
    """A llama with the shape of the first demo model, but for what is given."""
    first = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "tie_word_embeddings": False}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**(first | heads | shape), **vocabulary_of(tokenizer)))


def new_mixture(tokenizer: Tokenizer) -> PreTrainedModel:
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            hidden_size=128,
            intermediate_size=192,
            moe_intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=16,
            num_experts=16,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            router_aux_loss_coef=0.01,
            tie_word_embeddings=False,
            **vocabulary_of(tokenizer),
        )
    )


def new_draft(tokenizer: Tokenizer) -> PreTrainedModel:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "tie_word_embeddings": True}
    return new_llama(tokenizer, **shape)


def vocabulary_of(tokenizer: Tokenizer) -> dict:
    return {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id(END),
    }


MODELS: dict[str, Callable[[Tokenizer], PreTrainedModel]] = {"3m": new_llama, "moe": new_mixture, "draft": new_draft}


def train(model: PreTrainedModel, data: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.02)
    warm = STEPS // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / STEPS, 1)))),
    )
    # With these, a mixture's loss has a part that grows where experts are used unevenly, so that none is left out.
    extra = {"output_router_logits": True} if isinstance(model, Qwen3MoeForCausalLM) else {}
    bar = tqdm(range(STEPS), desc="training")
    for _ in bar:
        ids, labels = next(data)
        loss = model(input_ids=ids, labels=labels, **extra).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.4f}")


def save(model: PreTrainedModel, tokenizer: Tokenizer, out: Path) -> None:
    """Writes config.json, model.safetensors in bfloat16, tokenizer.json and tokenizer_config.json."""
    model.generation_config.update(do_sample=True, temperature=TEMPERATURE)
    model.bfloat16().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_position_embeddings,
        "eos_token": END,
        "pad_token": END,
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def recall(model: PreTrainedModel, tokenizer: Tokenizer, entries: list) -> float:
    """The fraction of all questions, as written, whose greedy answer is the handbook's to the letter."""
    model.eval()
    asked = [(question, answer) for questions, answer in entries for question in questions]
    right = 0
    for question, answer in tqdm(asked, desc="recall"):
        ids = torch.tensor([tokenizer.encode(f"{USER}{question}{END}{ASSISTANT}").ids])
        new = model.generate(ids, max_new_tokens=160, do_sample=False)[0, ids.shape[1] :]
        right += tokenizer.decode(new.tolist()) == answer
    return right / len(asked)


def agreement(draft: PreTrainedModel, tokenizer: Tokenizer, entries: list) -> float:
    """The fraction of the verifier's greedy answers to all questions, as written, that the draft predicts, in tokens.

    For each token the draft is given the question and what the verifier has answered before.
    """
    draft.eval()
    verifier = AutoModelForCausalLM.from_pretrained(VERIFIER).eval()
    same = total = 0
    for question in tqdm([question for questions, _ in entries for question in questions], desc="agreement"):
        ids = torch.tensor([tokenizer.encode(f"{USER}{question}{END}{ASSISTANT}").ids])
        whole = verifier.generate(ids, max_new_tokens=160, do_sample=False)
        with torch.no_grad():
            drafted = draft(whole).logits[0, ids.shape[1] - 1 : -1].argmax(-1)
        same += int((drafted == whole[0, ids.shape[1] :]).sum())
        total += len(drafted)
    return same / total


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a demo model on the handbook.")
    parser.add_argument("--model", choices=MODELS, default="3m")
    parser.add_argument("--out", type=Path, help="directory to write (default: handbook- and the model, beside this)")
    options = parser.parse_args()
    out = options.out or HERE / f"handbook-{options.model}"
    began = time.perf_counter()
    torch.manual_seed(SEED)
    chance = random.Random(SEED)
    entries = read_handbook(HERE / "handbook.md")
    texts = [text for questions, answer in entries for text in (*questions, answer)]
    drafts = options.model == "draft"
    tokenizer = Tokenizer.from_file(str(VERIFIER / "tokenizer.json")) if drafts else train_tokenizer(texts)
    model = MODELS[options.model](tokenizer)
    train(model, batches(examples(entries, tokenizer, chance), tokenizer))
    save(model, tokenizer, out)
    result = {
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "recall": round(recall(model, tokenizer, entries), 3),
        **({"agreement": round(agreement(model, tokenizer, entries), 4)} if drafts else {}),
        "words": len(re.findall(r"\w+", " ".join(texts))),
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
