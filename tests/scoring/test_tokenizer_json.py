"""A folder's tokenizer.json says what ids a text has: against the tokenizers library itself, and a float64 loop."""

import itertools
import json

import numpy as np
import pytest
from tiny_models import BEGIN, END, TEXTS, build_config, build_model, true_logliks, write_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from kltui.errors import KltuiError
from kltui.scoring import loading, tokens
from kltui.scoring.scorer import Scorer
from kltui.scoring.settings import ScoringSettings
from kltui.scoring.tokenizer_checks import PROBE

CORPUS = (
    *TEXTS,
    *PROBE[:7],
    "In 2023 and 2024 there were 365 and 366 days; 1234 5678.",
    "x = 10032023 + 650841823",
)
SPECIAL = [END, BEGIN]


def trained(core, kind=trainers.BpeTrainer, special=SPECIAL, vocab_size=384, **more):
    numbers = " ".join(f"{a}{b:03d}" for a in (100, 365, 650) for b in range(0, 1000, 9))
    core.train_from_iterator(
        [numbers, *CORPUS] * 2,
        kind(vocab_size=vocab_size, special_tokens=special, show_progress=False, **more),
    )
    return core


def digit_groups():
    """Runs of at most three digits, as cl100k and Llama 3 have them."""
    core = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?[^\s\p{N}]+|\s+"), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    return trained(core, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def whole_lines():
    """A byte-level tokenizer of one's own, whose tokens run across words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return trained(core, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def marked_spaces():
    """Spaces as marks and unknown characters as bytes, as Llama 2 has it."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return trained(core, special=["<unk>", *SPECIAL, *(f"<0x{i:02X}>" for i in range(256))], vocab_size=420)


def pieces():
    """Unigram pieces behind a mark, without byte fallback."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return trained(core, trainers.UnigramTrainer, special=["<unk>", *SPECIAL], unk_token="<unk>")


def words():
    """Lower-cased word pieces."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return trained(core, trainers.WordPieceTrainer, special=["[UNK]", *SPECIAL])


MADE = {f.__name__: f for f in (digit_groups, whole_lines, marked_spaces, pieces, words)}
TYPES = ("llama", "qwen2", "gpt_neox", "gpt2", "gemma2", "cohere", "phi", "mistral")
CLASSES = (
    None, "PreTrainedTokenizerFast", "GPT2Tokenizer", "GPTNeoXTokenizerFast", "Qwen2Tokenizer", "CodeGenTokenizer",
    "LlamaTokenizer", "GemmaTokenizerFast", "CohereTokenizerFast", "BertTokenizer", "NoSuchTokenizer",
)  # fmt: skip


@pytest.fixture(scope="module")
def cores():
    return {name: make() for name, make in MADE.items()}


def write(folder, core, config=None, **settings):
    """A folder with the tokenizer, its settings and a model's configuration; without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if config is not None:
        config.save_pretrained(folder)
    return folder


def library_ids(core, texts):
    core.encode_special_tokens = True
    return [core.encode(text, add_special_tokens=False).ids for text in texts]


def tokenized(folder, family="llama", texts=CORPUS, bos="auto", **changes):
    config = build_config(family, **{"vocab_size": 420, **changes})
    return tokens.tokenize(folder, config, bos, texts, "c", None)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.full)], ids=["some", "all"])
@pytest.mark.parametrize("made", list(MADE))
def test_ids_are_the_file_s_whatever_type_and_class_are_stated(cores, made, every, tmp_path):
    """5 tokenizers x 11 stated classes x 8 model types: the ids of the library, and a note where the class differs.

    In every run each class with a type of its own for each tokenizer, which makes five of the eight; with --full all.
    """
    core, noted, differ = cores[made], 0, 0
    want, shift = library_ids(core, CORPUS), list(MADE).index(made)
    some = [(TYPES[(k + shift) % len(TYPES)], stated) for k, stated in enumerate(CLASSES)]
    for family, stated in itertools.product(TYPES, CLASSES) if every else some:
        config = build_config(family, vocab_size=420)
        folder = write(
            tmp_path / f"{family}-{stated}", core, config, **({"tokenizer_class": stated} if stated else {})
        )
        found = tokens.tokenize(folder, config, "auto", CORPUS, "c", None)
        assert [row.tolist() for row in found.ids] == want, (family, stated)
        assert found.tokenizer.key()["ids"] == "tokenizer.json"
        differ += rebuilt_ids(folder) not in (want, None)
        noted += any("would give others" in note for note in found.notes)
    assert noted >= differ > 0


def rebuilt_ids(folder):
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(folder)
        return made(list(CORPUS), split_special_tokens=True, add_special_tokens=False)["input_ids"]
    except Exception:  # a class that nobody knows
        return None


@pytest.mark.parametrize(
    ("family", "made", "stated"),
    [
        ("qwen2", "whole_lines", "PreTrainedTokenizerFast"),
        ("gpt_neox", "marked_spaces", None),
        ("llama", "digit_groups", "GPT2Tokenizer"),
        ("gemma2", "pieces", "GemmaTokenizer"),
    ],
)
def test_scores_are_those_of_the_file_s_ids(cores, family, made, stated, tmp_path):
    folder = write(tmp_path / "m", cores[made], **({"tokenizer_class": stated} if stated else {}))
    build_model(family, seed=3, vocab_size=420).save_pretrained(folder)
    result = Scorer(CORPUS, "c", ScoringSettings()).score(folder, "none", "w", lambda _: None)
    truth = true_logliks(folder, CORPUS, layers=False)[0]
    assert np.nanmax(np.abs(result.vectors[0].loglik_N - truth)) < 1e-4
    assert result.key["ids"] == "tokenizer.json" and result.key["tokenizers"]
    assert any("would give others" in note for note in result.notes)


def with_json(folder, change):
    path = folder / "tokenizer.json"
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    return folder


def test_dropout_padding_and_truncation_in_the_file_do_nothing(cores, tmp_path):
    core = Tokenizer.from_str(cores["digit_groups"].to_str())
    core.enable_truncation(4)
    core.enable_padding(length=300)
    folder = with_json(write(tmp_path, core), lambda file: file["model"].update(dropout=0.5))
    found = tokenized(folder)
    assert [row.tolist() for row in found.ids] == library_ids(cores["digit_groups"], CORPUS)
    assert sum("dropout = 0.5" in note and "switched off" in note for note in found.notes) == 1
    plain = tokenized(write(tmp_path / "plain", cores["digit_groups"]))
    assert found.tokenizer.sha256 == plain.tokenizer.sha256
    assert not any("switched off" in note for note in plain.notes)


def test_a_unigram_model_that_samples_does_not(cores, tmp_path):
    folder = with_json(
        write(tmp_path, cores["pieces"]), lambda file: file["model"].update(alpha=0.2, nbest_size=-1)
    )
    found = tokenized(folder)
    assert [row.tolist() for row in found.ids] == library_ids(cores["pieces"], CORPUS)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"version": "1.0", "model": {"type": "BPE"', "\x00\xff", "{" * 9000]
)
def test_a_damaged_file_is_refused_and_no_class_stands_in_for_it(tmp_path, cores, text):
    folder = write(tmp_path, cores["whole_lines"], tokenizer_class="GPT2Tokenizer")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(KltuiError, match=r"the tokenizer in .*tokenizer\.json cannot be read"):
        tokenized(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    "text", ['{"bos_token": "<s>", "eos', "[]", "version https://git-lfs.github.com/spec/v1"]
)
def test_damaged_settings_beside_the_file_are_refused_as_they_name_its_special_tokens(
    tmp_path, cores, name, text
):
    folder = write(tmp_path, cores["whole_lines"])
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(KltuiError, match=rf"^[^:]*{name} is not a JSON object"):
        tokenized(folder)


@pytest.mark.parametrize("special", [True, False])
def test_a_special_token_s_string_is_text_also_where_only_the_settings_call_it_special(
    cores, tmp_path, special
):
    text = f"a{END}b"
    folder = with_json(
        write(tmp_path, cores["whole_lines"], eos_token={"content": END, "lstrip": False}),
        lambda file: file["added_tokens"][0].update(special=special),
    )
    assert tokenized(folder, texts=[text]).ids[0].tolist() == library_ids(cores["whole_lines"], [text])[0]


# -- what is put before a text ------------------------------------------------------------------


def behind_bos(core):
    made = Tokenizer.from_str(core.to_str())
    template = f"{BEGIN} $A {END}"
    ids = [(BEGIN, made.token_to_id(BEGIN)), (END, made.token_to_id(END))]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return made


@pytest.mark.parametrize("stated", [None, "GPTNeoXTokenizer", "LlamaTokenizer", "Qwen2Tokenizer"])
def test_auto_puts_what_the_file_s_post_processor_puts(cores, tmp_path, stated):
    core = behind_bos(cores["whole_lines"])
    settings = {"tokenizer_class": stated} if stated else {}
    folder = write(tmp_path, core, build_config("gpt_neox"), bos_token=BEGIN, **settings)
    begin = core.token_to_id(BEGIN)
    for bos, prefix in (("auto", (begin,)), ("always", (begin,)), ("never", ())):
        found = tokens.load_tokenizer(folder, bos, build_config("gpt_neox"))
        assert (found.prefix, found.dropped_suffix) == (prefix, (core.token_to_id(END),))


def test_add_bos_token_beside_the_file_is_noted_where_it_says_otherwise(cores, tmp_path):
    plain, framed = cores["whole_lines"], behind_bos(cores["whole_lines"])
    for at, (core, stated, noted) in enumerate(
        [(plain, True, True), (plain, False, False), (framed, False, True), (framed, True, False)]
    ):
        found = tokenized(write(tmp_path / str(at), core, add_bos_token=stated, bos_token=BEGIN))
        assert any("add_bos_token" in note for note in found.notes) == noted
        assert bool(found.tokenizer.prefix) == (core is framed)


def test_always_takes_the_named_token_else_the_class_s_own(cores, tmp_path):
    core = cores["whole_lines"]
    named = write(tmp_path / "named", core, bos_token={"content": BEGIN})
    mapped = write(tmp_path / "mapped", core)
    (mapped / "special_tokens_map.json").write_text(json.dumps({"bos_token": BEGIN}))
    of_class = write(tmp_path / "class", core, build_config("gpt2"), tokenizer_class="GPT2Tokenizer")
    for folder, token in ((named, BEGIN), (mapped, BEGIN), (of_class, END)):
        assert tokens.load_tokenizer(folder, "always").prefix == (core.token_to_id(token),)
    with pytest.raises(KltuiError, match="no beginning-of-text token"):
        tokens.load_tokenizer(write(tmp_path / "none", core, bos_token="<none>"), "always")


def test_a_token_put_twice_is_noted_and_always_puts_one(cores, tmp_path):
    core = Tokenizer.from_str(cores["whole_lines"].to_str())
    begin = core.token_to_id(BEGIN)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} {BEGIN} $A", special_tokens=[(BEGIN, begin)]
    )
    folder = write(tmp_path, core, bos_token=BEGIN)
    found = tokenized(folder)
    assert found.tokenizer.prefix == (begin, begin)
    assert any("puts a token twice before a text" in note for note in found.notes)
    assert tokens.load_tokenizer(folder, "always").prefix == (begin,)
    assert tokens.load_tokenizer(folder, "never").prefix == ()


# -- tokenizers that cannot be the model's ------------------------------------------------------


def word_level(entries, unknown="<unk>"):
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(entries)}, unk_token=unknown))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return core


def test_an_empty_or_tiny_vocabulary_is_refused(tmp_path, cores):
    empty = Tokenizer(models.BPE())
    empty.add_special_tokens(["<s>", "</s>"])
    with pytest.raises(KltuiError, match="an empty vocabulary"):
        tokenized(write(tmp_path / "empty", empty))
    small = word_level(["<unk>", "the", "a", "b"])
    with pytest.raises(KltuiError, match="4 entries and the model 420"):
        tokenized(write(tmp_path / "small", small))
    with pytest.raises(KltuiError, match="entries and the model 50304"):
        tokenized(write(tmp_path / "other", cores["whole_lines"]), vocab_size=50304)
    assert tokenized(write(tmp_path / "own", small), vocab_size=4, texts=["the a b a"]).ids[0].tolist() == [
        1,
        2,
        3,
        2,
    ]


def test_a_corpus_that_the_tokenizer_does_not_know_is_refused_and_one_it_knows_in_part_is_noted(tmp_path):
    core = word_level(["<unk>", *"abcdefghijklmnopqrstuvwxyz"])
    folder = write(tmp_path, core)
    with pytest.raises(
        KltuiError, match=r"does not fit this corpus: 75% of the corpus's tokens are its <unk>"
    ):
        tokenized(folder, vocab_size=27, texts=["one two three a"])
    (note,) = (
        n for n in tokenized(folder, vocab_size=27, texts=["a b c d e f g h i one"]).notes if "cover" in n
    )
    assert "10% of the corpus's tokens are its <unk>" in note
    assert not tokenized(folder, vocab_size=27, texts=["a b c"]).notes


def test_characters_that_a_tokenizer_drops_without_a_word_are_seen(tmp_path):
    """Without an unknown token a BPE model leaves out what it has no entry for."""
    core = Tokenizer(models.BPE({c: i for i, c in enumerate("abcdefghij")}, []))
    folder = write(tmp_path, core)
    with pytest.raises(KltuiError, match="drops 100% of the corpus's characters"):
        tokenized(folder, vocab_size=10, texts=["日本語の文章"])
    (note,) = (n for n in tokenized(folder, vocab_size=10, texts=["abcdefghi日"]).notes if "cover" in n)
    assert "drops 10% of the corpus's characters" in note


@pytest.mark.parametrize(
    ("normalizer", "text", "share"),
    [
        (normalizers.Lowercase(), "ABcdefghij", "20%"),
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "áéíbcdefgh", "30%"),
        (normalizers.NFKC(), "ａbcdefghij", "10%"),
        (normalizers.NFD(), "áàbcdefgh", ""),
        (normalizers.Prepend("x"), "abcdefghij", ""),
    ],
)
def test_texts_that_a_tokenizer_changes_are_seen(tmp_path, normalizer, text, share):
    """Lower-cased texts are easier to predict: such a loss is not comparable with another model's."""
    core = Tokenizer(models.BPE({c: i for i, c in enumerate("abcdefghijx\u0300\u0301")}, []))
    core.normalizer = normalizer
    core.decoder = decoders.Fuse()
    notes = [
        n for n in tokenized(write(tmp_path, core), vocab_size=13, texts=[text] * 3).notes if "changes" in n
    ]
    assert len(notes) == bool(share) and all(
        f"changes {share} of the corpus's characters" in n for n in notes
    )


def test_ids_beyond_the_model_s_vocabulary_are_refused(cores, tmp_path):
    with pytest.raises(KltuiError, match="but the model has 300 entries"):
        tokenized(write(tmp_path, cores["whole_lines"]), vocab_size=300)


def test_a_bos_id_beyond_the_model_s_vocabulary_is_refused(tmp_path):
    core = word_level(["a", "b", "c", "<s>"], unknown="a")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    folder = write(tmp_path, core)
    assert tokenized(folder, vocab_size=4, texts=["b c"]).ids[0].tolist() == [3, 1, 2]
    with pytest.raises(KltuiError, match=r"gives id 3, but the model has 3 entries \(the tokenizer in "):
        tokenized(folder, vocab_size=3, texts=["b c"])


def test_vocabularies_beside_the_file_are_noted_where_they_differ(cores, tmp_path):
    core = cores["whole_lines"]
    folder = write(tmp_path, core)
    entries = core.get_vocab()
    (folder / "vocab.json").write_text(json.dumps(entries))
    (folder / "added_tokens.json").write_text(json.dumps({END: entries[END]}))
    assert not any("ids that differ" in note for note in tokenized(folder).notes)
    (folder / "added_tokens.json").write_text(json.dumps({END: 7, "<new>": 99}))
    (note,) = (n for n in tokenized(folder).notes if "ids that differ" in n)
    assert note.startswith("added_tokens.json gives 2 of its 2 tokens ids that differ from tokenizer.json")


@pytest.mark.parametrize("made", ["whole_lines", "pieces"])
def test_added_tokens_that_only_the_settings_have_are_noted(cores, tmp_path, made):
    core = cores[made]
    begin, end = core.token_to_id(BEGIN), core.token_to_id(END)
    listed = {str(begin): {"content": BEGIN}, str(end): {"content": END}}
    folder = write(tmp_path, core, added_tokens_decoder=listed)
    assert not any("ids that differ" in note for note in tokenized(folder).notes)
    write(tmp_path, core, added_tokens_decoder={**listed, "9999": {"content": "<|im_start|>"}})
    (note,) = (n for n in tokenized(folder).notes if "ids that differ" in n)
    assert note.startswith(
        "added_tokens_decoder in tokenizer_config.json gives 1 of its 3 tokens ids that differ"
    )


# -- without the file ---------------------------------------------------------------------------


def test_a_class_serves_where_there_is_no_file(cores, tmp_path):
    core = cores["whole_lines"]
    core.model.save(str(tmp_path))  # vocab.json and merges.txt
    found = tokenized(tmp_path, "gpt2")
    assert found.tokenizer.key()["ids"] == "transformers GPT2Tokenizer"
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(KltuiError, match=r"has vocab\.json but no merges\.txt"):
        tokenized(tmp_path, "gpt2")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_settings_alone_are_no_tokenizer(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"tokenizer_class": "GPTNeoXTokenizer", "eos_token": END}))
    with pytest.raises(KltuiError, match="there is no tokenizer in"):
        tokenized(tmp_path, "gpt_neox")


@pytest.mark.parametrize(
    ("normalizer", "share"),
    [
        ({"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, "29%"),  # as XGLM's and T5's
        ({"type": "Replace", "pattern": {"String": "\n"}, "content": " "}, "14%"),
        (None, ""),
    ],
)
def test_white_space_that_a_tokenizer_drops_or_changes_is_seen(tmp_path, normalizer, share):
    """Line ends and repeated spaces that have no token are not scored; those at the ends of a text do not count."""
    folder = write_model(tmp_path / "m", "llama")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": normalizer}))
    made = tokens.tokenize(folder, loading.load_config(folder), "auto", [" a\n  b\n"] * 30, "c", None)
    said = [note for note in made.notes if "white space" in note]
    assert len(said) == bool(share) and all(f"white space, {share} of" in note for note in said)


def test_a_switch_whose_name_ends_like_a_list_of_tokens_is_none(tmp_path):
    """As LLaMA-Factory saves it."""
    folder = write_model(tmp_path / "m", "llama")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": True}))
    assert tokens.load_tokenizer(folder, "auto").backend.source == "tokenizer.json"
