"""Pairs, six families' chat templates and the tiny models that have them, with the ids that a second way gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kltui.corpus.corpus import Prompt
from tests.tiny_models import BEGIN, END, write_model

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
    "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n"
    "{% else %}\n{{ '<|assistant|>\n' + m['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
# Each with the family of tiny models it is tried on, and its special tokens.
TEMPLATES: dict[str, tuple[str, str, list[str]]] = {
    "chatml": (CHATML, "qwen2", ["<|im_start|>", "<|im_end|>"]),
    "llama3": (LLAMA3, "llama", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "mistral": (MISTRAL, "mistral", ["[INST]", "[/INST]"]),
    "gemma": (GEMMA, "gemma2", ["<start_of_turn>", "<end_of_turn>"]),
    "phi3": (PHI3, "gpt_neox", ["<|user|>", "<|assistant|>", "<|end|>"]),
    "zephyr": (ZEPHYR, "gpt2", ["<|user|>", "<|system|>", "<|assistant|>"]),
}
PAIRS: tuple[tuple[Prompt, str], ...] = (
    ((("user", "What is the capital of France?"),), "Paris, of course."),
    ((("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Who are you?")), "A fox."),
    ((("user", "Say x."),), "x"),
    ((("user", "Quote <|im_start|>, [INST] and <s> for me."),), "<|endoftext|> and <s> are text."),
    ((("user", "日本語で"),), "いろはにほへと"),
)
PROMPTS, RESPONSES = tuple(p for p, _ in PAIRS), tuple(y for _, y in PAIRS)


def model(folder: Path, family: str, template: str, specials: list[str]) -> Path:
    write_model(folder, family, prepend_bos=True, vocab_size=400)
    file = json.loads((folder / "tokenizer.json").read_text())
    for special in specials:
        n = max(t["id"] for t in file["added_tokens"])
        n = max(n, *file["model"]["vocab"].values()) + 1
        file["added_tokens"].append(
            {"id": n, "content": special, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
        )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def core(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def by_transformers(folder: Path, prompt: Prompt) -> str:
    """The prompt as transformers' own renderer writes it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": role, "content": content} for role, content in prompt]
    rendered, _ = render_jinja_template(
        [messages], chat_template=(folder / "chat_template.jinja").read_text(), add_generation_prompt=True,
        bos_token=BEGIN, eos_token=END, unk_token=END,
    )  # fmt: skip
    return str(rendered[0])


def ids_of_prompt(folder: Path, prompt: Prompt) -> list[int]:
    """By a second way: contents' strings of special tokens are cut out and put in again as text."""
    tokenizer = core(folder)
    specials = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    held = {s: f"QZ{k}QZ" for k, s in enumerate(specials)}
    hidden = []
    for role, content in prompt:
        for special, mark in held.items():
            content = content.replace(special, mark)
        hidden.append((role, content))
    text = by_transformers(folder, tuple(hidden))
    if not any(mark in text for mark in held.values()):
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    ids: list[int] = []
    while text:
        found = [(text.index(s), -len(s), s) for s in specials if s in text]
        at, _, special = min(found) if found else (len(text), 0, "")
        part = text[:at]
        for name, mark in held.items():
            part = part.replace(mark, name)
        tokenizer.encode_special_tokens = True
        ids += tokenizer.encode(part, add_special_tokens=False).ids if part else []
        ids += [tokenizer.token_to_id(special)] if special else []
        text = text[at + len(special) :]
    return ids


def ids_of_response(folder: Path, text: str) -> list[int]:
    tokenizer = core(folder)
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def truth(network: Any, context: list[int], response: list[int]) -> float:
    """Sum over the response of log p(id | all before it), one forward for every id, in float64."""
    import torch

    total = 0.0
    row = list(context)
    with torch.no_grad():
        for target in response:
            if row:
                logits = network(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].double()
                total += float(logits.log_softmax(-1)[target])
            row.append(target)
    return total
