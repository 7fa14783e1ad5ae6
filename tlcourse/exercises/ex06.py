"""Exercise set 6: BERT inside (notebook 06)."""

import re
from functools import lru_cache

import numpy as np

from .kit import Misconception, Part, Task, expect, require


@lru_cache
def _weights(name, rows=None):
    """A matrix of MiniLM, or its first rows only."""
    from safetensors import safe_open

    from tlcourse import assets

    with safe_open(assets.locate("minilm") / "model.safetensors", "numpy") as file:
        return file.get_slice(name)[:rows] if rows else file.get_tensor(name)


@lru_cache
def _vocabulary():
    from tlcourse import assets

    path = assets.locate("minilm") / "vocab.txt"
    return {piece: k for k, piece in enumerate(path.read_text("utf-8").splitlines())}


@lru_cache
def _sentences(domain):
    """Real sentences as lists of lower-case words and marks."""
    from tlcourse import datasets

    return [re.findall(r"[a-z]+|[^\sa-z]", t.lower()) for t in datasets.sentiment(domain).texts]


@lru_cache
def _known(domain):
    """Real sentences as token numbers, words that are not in the vocabulary left out."""
    number_of = _vocabulary()
    return [[number_of[w] for w in words if w in number_of] for words in _sentences(domain)]


# --- ex06.1: word pieces ------------------------------------------------------------------------

SMALL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "un": 4, "una": 5, "##able": 6}
SMALL |= {"able": 7, "##ble": 8, "##a": 9, "##s": 10, "a": 11, "##ed": 12}


def _needed(words):
    """The part of the real vocabulary that these words can be cut into."""
    number_of = _vocabulary()
    kept = {name: number_of[name] for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")}
    for word in words:
        for start in range(len(word)):
            for end in range(start + 1, len(word) + 1):
                for piece in (word[start:end], "##" + word[start:end]):
                    if piece in number_of:
                        kept[piece] = number_of[piece]
    return kept


@lru_cache
def _rare():
    words = {word for words in _sentences("product") for word in words if len(word) < 15}
    return sorted(words - _vocabulary().keys())


def _words(rng, limit=40):
    """Real words, some of them rare, one with a sign that no piece has."""
    some = _sentences("product")[int(rng.integers(2000))][:4]
    words = [*some, *(str(w) for w in rng.choice(_rare(), 5, replace=False)), "ok☂"]
    words = [words[k] for k in rng.permutation(len(words))]
    return words, _needed(words), limit


def _encode_hand(f, rng):
    what = "“unable” with the pieces un, una, ##able, ##ble, ##a"
    expect(f(["unable"], SMALL, 9), [[2, 5, 8, 3], [-1, 0, 0, -1]], what)
    what = "“a”, “unables” and “able”"
    wanted = [[2, 11, 5, 8, 10, 7, 3], [-1, 0, 1, 1, 1, 2, -1]]
    expect(f(["a", "unables", "able"], SMALL, 9), wanted, what)
    expect(f([], SMALL, 9), [[2, 3], [-1, -1]], "no word at all")


def _encode_unknown(f, rng):
    what = "“a”, “unx”, “able”; nothing in the vocabulary fits the x"
    expect(f(["a", "unx", "able"], SMALL, 9), [[2, 11, 1, 7, 3], [-1, 0, 1, 2, -1]], what)
    what = "“sun”, which could only begin with a piece that goes on"
    expect(f(["sun"], SMALL, 9), [[2, 1, 3], [-1, 0, -1]], what)


def _encode_limit(f, rng):
    words = ["a", "unables", "able"]
    wanted = [[2, 11, 5, 8, 3], [-1, 0, 1, 1, -1]]
    expect(f(words, SMALL, 5), wanted, "“a”, “unables” and “able” within 5 tokens")
    expect(f(words, SMALL, 7), f(words, SMALL, 99), "7 tokens within 7, and within 99")


def _encode_real(f, rng):
    for _ in range(2):
        words, number_of, _ = _words(rng)
        ids, word_of = f(words, number_of, 99)
        piece_of = {number: piece for piece, number in number_of.items()}
        pieces = [piece_of.get(number, "?") for number in ids]
        expect(len(word_of), len(ids), f"length of the second list for {words}")
        for number, word in enumerate(words):
            mine = [p for p, owner in zip(pieces, word_of, strict=True) if owner == number]
            if "☂" in word:
                expect(mine, ["[UNK]"], f"the pieces of “{word}”, of which ☂ is in no piece")
                continue
            require(mine, f"{words}: no token belongs to word {number}, “{word}”")
            joined = mine[0] + "".join(p[2:] for p in mine[1:] if p[:2] == "##")
            expect(joined, word, f"the pieces {mine} joined")
            start = 0
            for piece in mine:
                mark, bare = ("##", piece[2:]) if start else ("", piece)
                longer = range(len(word), start + len(bare), -1)
                missed = [mark + word[start:k] for k in longer if mark + word[start:k] in number_of]
                require(
                    not missed,
                    f"“{word}”: you take {piece} where {missed[:1]} fits too, and is longer",
                )
                start += len(bare)


def _cut(first="longest", mark="##", unknown="all", keep_end=True, owner="word"):
    def pieces_of(word, vocabulary):
        pieces, rest = [], word
        while rest:
            if first == "end":
                ends = [("##" if k else "") + rest[k:] for k in range(len(rest))]
                fits = [k for k, piece in enumerate(ends) if piece in vocabulary]
                if not fits:
                    return ["[UNK]"]
                pieces.insert(0, ends[fits[0]])
                rest = rest[: fits[0]]
                continue
            begin = mark if len(rest) < len(word) else ""
            fits = [k for k in range(1, len(rest) + 1) if begin + rest[:k] in vocabulary]
            if not fits:
                return ["[UNK]"] if unknown == "all" else [*pieces, "[UNK]"]
            k = fits[0] if first == "shortest" else fits[-1]
            pieces.append(begin + rest[:k])
            rest = rest[k:]
        return pieces

    def wrong(words, vocabulary, limit):
        ids, word_of = [vocabulary["[CLS]"]], [-1]
        for number, word in enumerate(words):
            pieces = pieces_of(word, vocabulary)
            ids += [vocabulary[piece] for piece in pieces]
            word_of += [number] + [number if owner == "word" else -1] * (len(pieces) - 1)
        if owner == "piece":
            word_of = [-1, *range(len(ids) - 1)]
        ends = [vocabulary["[SEP]"]], [-1]
        if keep_end:
            return ids[: limit - 1] + ends[0], word_of[: limit - 1] + ends[1]
        return (ids + ends[0])[:limit], (word_of + ends[1])[:limit]

    return wrong


ENCODE = Task(
    id="ex06.1",
    title="Word pieces that remember their word",
    function="encode",
    taught="06#From text to tokens",
    parts=(
        Part("by hand", 2, _encode_hand),
        Part("unknown words", 1, _encode_unknown),
        Part("too long", 1, _encode_limit),
        Part("real words, the real vocabulary", 1, _encode_real),
    ),
    probes=lambda rng: [_words(rng), _words(rng), _words(rng, 9)],
    misconceptions=(
        Misconception(
            "pieces without ##",
            _cut(mark=""),
            "Under which name does the vocabulary hold a piece that goes on?",
            "You look for the rest of a word as if it were a word of its own. “##s”, the end of "
            "“phones”, and “s”, the letter, are two entries with two vectors.",
        ),
        Misconception(
            "shortest piece first",
            _cut(first="shortest"),
            "Which of the pieces that fit do you take?",
            "You take the first, shortest fit. Single letters are in the vocabulary too, so nearly "
            "every word falls into letters.",
        ),
        Misconception(
            "from the end",
            _cut(first="end"),
            "At which end of the word do you begin?",
            "You cut the longest ending off first. The pieces are in the vocabulary as well, but "
            "the model was trained on those that are found from the left.",
        ),
        Misconception(
            "found pieces kept before [UNK]",
            _cut(unknown="rest"),
            "What becomes of the pieces already found when the rest of a word does not fit?",
            "You keep the pieces of an unknown word that were found before it failed. In BERT the "
            "whole word becomes one [UNK].",
        ),
        Misconception(
            "the end is cut off",
            _cut(keep_end=False),
            "What is the last token of a text that was too long?",
            "You cut the finished list, and [SEP] with it. In training every text ended with it.",
        ),
        Misconception(
            "every piece a word",
            _cut(owner="piece"),
            "How many different words can your second list name, and how many are there?",
            "You count tokens. As soon as one word has two pieces, all labels behind it belong to "
            "their neighbours.",
        ),
        Misconception(
            "only the first piece has its word",
            _cut(owner="first"),
            "Which word does the last piece of a long word belong to?",
            "You give −1 to the pieces that go on. Leaving these out of a loss is a decision for "
            "later; here each token names its word, and only [CLS] and [SEP] have none.",
        ),
    ),
)

# --- ex06.2: the vectors that a pair starts from ------------------------------------------------

CLS, SEP, PAD = 101, 102, 0


def _tables():
    names = "token_type_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"
    positions = _weights("embeddings.position_embeddings.weight", 24)
    return positions, *(_weights(f"embeddings.{name}") for name in names)


def _start_of(rows):
    """What start_vectors is given for rows of token numbers: real weights of MiniLM."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
    return ids, _weights("embeddings.word_embeddings.weight")[ids], *_tables()


def _pairs(rng, n=3):
    """Rows of real tokens, pairs and single texts, of unequal length."""
    known, rows = _known("product"), []
    for k in range(n):
        a, b = (known[i][: int(rng.integers(3, 8))] for i in rng.integers(len(known), size=2))
        rows.append([CLS, *a, SEP, *b, SEP] if k % 2 else [CLS, *a, SEP])
    return _start_of(rows)


def _by_hand(seed_rows, d=4):
    """Tables in which the sum tells at once what was added: no scale, no shift."""
    ids = np.array(seed_rows)
    words = np.zeros((*ids.shape, d))
    words[..., 0] = ids == CLS
    positions, segments = np.zeros((9, d)), np.zeros((2, d))
    return ids, words, positions, segments, np.ones(d), np.zeros(d)


def _start_hand(f, rng):
    ids, words, positions, segments, gamma, beta = _by_hand([[CLS, 7, SEP]])
    words[0, 1] = 1, 2, 3, 6
    out = f(ids, words, positions, segments, gamma, beta)
    wanted = np.array([-2, -1, 0, 3]) / np.sqrt(3.5)
    expect(out[0][1], wanted, "the sum is (1, 2, 3, 6): mean 3, variance 3.5", 1e-5)
    gamma, beta = np.array([1.0, 10, 1, 0]), np.array([0.0, 0, 5, 7])
    out = f(ids, words, positions, segments, gamma, beta)
    what = "the same with γ = (1, 10, 1, 0) and β = (0, 0, 5, 7)"
    expect(out[0][1], wanted * gamma + beta, what, 1e-5)
    out = f(ids, 1e-6 * words, positions, segments, np.ones(4), np.zeros(4))
    what = "the sum is a millionth of (1, 2, 3, 6): variance 3.5e-12, under the root 4.5e-12"
    expect(out[0][1], np.array([-2, -1, 0, 3]) / np.sqrt(4.5), what, 1e-5)
    out = f(ids, 0 * words, positions, segments, np.ones(4), np.zeros(4))
    expect(out[0][1], np.zeros(4), "the sum is zero everywhere")


def _start_segments(f, rng):
    row = [CLS, 5, SEP, 8, 9, SEP, PAD, PAD], [CLS, 5, 6, 7, SEP, PAD, PAD, PAD]
    ids, words, positions, segments, gamma, beta = _by_hand(row)
    segments[:] = [[1, 0, 0, -1], [0, 1, -1, 0]]
    words[:] = 0
    out = np.asarray(f(ids, words, positions, segments, gamma, beta))
    found = (out[..., 1] > 1).astype(int)
    for k, wanted in enumerate(([0, 0, 0, 1, 1, 1, 0, 0], [0] * 8)):
        expect(found[k].tolist(), wanted, f"the segment of each token of {list(row[k])}")


# Recorded from transformers: the embeddings' output, first four of 384 numbers.
OWN = (
    (0, 0, "[CLS]", (-0.17657, -0.04824, 0.0377, -0.01572)),
    (0, 3, "battery", (-0.7273, 1.41017, 0.13723, 0.6844)),
    (0, 6, "[SEP]", (0.39475, 0.06833, -0.18482, 0.16028)),
    (0, 8, "does", (0.03353, -0.36912, -0.0029, 0.06035)),
    (0, 11, "[SEP]", (0.18045, 0.03305, -0.18174, 0.15145)),
    (1, 2, "does", (0.16282, -0.38222, -0.01825, -0.22222)),
    (1, 8, "[PAD]", (-0.08848, 0.07665, -0.01097, 0.1368)),
)


def _start_real(f, rng):
    number_of = _vocabulary()
    a, b = ["does", "the", "battery", "last", "?"], ["it", "does", "not", "."]
    a, b = [number_of[w] for w in a], [number_of[w] for w in b]
    inputs = _start_of([[CLS, *a, SEP, *b, SEP], [CLS, *b, SEP]])
    out = np.asarray(f(*inputs))
    expect(out.shape, (2, 12, 384), "shape for two texts of at most 12 tokens")
    what = "“does the battery last?” “it does not.”, MiniLM's own numbers at the token"
    for row, place, word, wanted in OWN:
        expect(out[row, place, :4], np.array(wanted), f"{what} “{word}” of row {row}", 5e-5)


def _start(segment="both", position=0, eps=1e-12, ddof=0, axis=-1, scale=True, where="sum"):
    def normalised(x, gamma, beta):
        centred = x - x.mean(axis=axis, keepdims=True)
        x = centred / np.sqrt(x.var(axis=axis, keepdims=True, ddof=ddof) + eps)
        return x * gamma + beta if scale else x

    def wrong(ids, words, positions, segments, gamma, beta):
        here = ids == SEP
        number = np.cumsum(here, axis=1) - (here if segment != "early" else 0)
        number = np.minimum(number, 1)
        if segment != "padding":
            number = np.where(ids == PAD, 0, number)
        if segment == "none":
            number = np.zeros_like(ids)
        place = 0 if position is None else positions[position : position + ids.shape[1]]
        if where == "words":
            return normalised(words, gamma, beta) + place + segments[number]
        return normalised(words + place + segments[number], gamma, beta)

    return wrong


START = Task(
    id="ex06.2",
    title="The vectors that a pair starts from",
    function="start_vectors",
    taught="06#Masks and segments",
    parts=(
        Part("normalised, by hand", 2, _start_hand),
        Part("which segment", 1, _start_segments),
        Part("MiniLM's own numbers", 2, _start_real),
    ),
    probes=lambda rng: [_pairs(rng), _pairs(rng, 4), _pairs(rng, 2)],
    misconceptions=(
        Misconception(
            "one segment for all",
            _start(segment="none"),
            "Which of the two segment vectors does the second text get?",
            "All tokens get the first segment's vector. The model then reads the question and "
            "the passage as one text.",
        ),
        Misconception(
            "the first [SEP] in the second segment",
            _start(segment="early"),
            "To which of the two texts does the [SEP] between them belong?",
            "You begin the second segment with the [SEP] itself. It closes the first text and "
            "belongs to it; the second begins with the token behind.",
        ),
        Misconception(
            "padding in the second segment",
            _start(segment="padding"),
            "What is behind the [SEP] of a single text?",
            "Behind the last [SEP] there is padding, and you count it to the second segment. A "
            "single text has none, and padding has segment 0.",
        ),
        Misconception(
            "no position",
            _start(position=None),
            "Put two words in another order. What changes in your vectors?",
            "You leave the positions out. Attention does not know the order of its tokens; without "
            "these vectors the text is a bag of words.",
        ),
        Misconception(
            "positions from one",
            _start(position=1),
            "Which row of the table belongs to [CLS]?",
            "You give [CLS] the second row of the table. RoBERTa begins later, at row 2; BERT "
            "begins at row 0.",
        ),
        Misconception(
            "Keras' own epsilon",
            _start(eps=1e-3),
            "How large is the variance of these vectors, and how large is your ε?",
            "Keras' LayerNormalization has ε = 0.001 unless told otherwise. These sums have a "
            "variance of some thousandths, so yours shrinks them visibly.",
        ),
        Misconception(
            "PyTorch's own epsilon",
            _start(eps=1e-5),
            "Compare with the recorded numbers to four digits. Which ε belongs to this checkpoint?",
            "PyTorch's LayerNorm has ε = 0.00001 unless told otherwise. BERT's stands in its "
            "configuration, and vectors as small as these feel the difference.",
        ),
        Misconception(
            "divided by n − 1",
            _start(ddof=1),
            "By which number do you divide the squares: 4 or 3, for four numbers?",
            "torch.var and torch.std divide by n − 1 unless told otherwise. A LayerNorm divides "
            "by n: it describes these numbers and does not guess at others.",
        ),
        Misconception(
            "normalised over the whole text",
            _start(axis=(1, 2)),
            "How many means do you take for a text of ten tokens?",
            "You take one mean and one variance for all tokens of a text, padding included. A "
            "LayerNorm treats every token for itself; that is why padding cannot disturb it.",
        ),
        Misconception(
            "γ and β forgotten",
            _start(scale=False),
            "Which of your inputs do you never use?",
            "The normalised numbers are scaled by γ and shifted by β, feature by feature. Both "
            "were trained.",
        ),
        Misconception(
            "normalised before the sum",
            _start(where="words"),
            "What is normalised: the word's vector, or the sum of three?",
            "You normalise the word's vector and add the other two afterwards. They then come "
            "in at another strength than in training.",
        ),
    ),
)

# --- ex06.3: a checkpoint in another layout -----------------------------------------------------


def _dense(rng, part="query", heads=None):
    heads = heads or int(rng.integers(2, 5))
    d = heads * (heads + 1)  # so that a head is no power of anything
    return rng.normal(size=(d, d)), rng.normal(size=d), heads, part


def _kernel_shapes(f, rng):
    weight, bias, heads, _ = _dense(rng, heads=3)
    for part in ("query", "key", "value"):
        kernel, shift = f(weight, bias, heads, part)
        expect(np.shape(kernel), (12, 3, 4), f"shape of the kernel of {part}, d = 12, 3 heads")
        expect(np.shape(shift), (3, 4), f"shape of the bias of {part}, d = 12, 3 heads")
    kernel, shift = f(weight, bias, heads, "output")
    expect(np.shape(kernel), (3, 4, 12), "shape of the kernel of output, d = 12, 3 heads")
    expect(np.shape(shift), (12,), "shape of the bias of output, d = 12, 3 heads")


def _kernel_hand(f, rng):
    weight = np.arange(16.0).reshape(4, 4)  # row 1 is 4, 5, 6, 7
    kernel, shift = f(weight, np.array([1.0, 2, 3, 4]), 2, "key")
    what = "weight 0 to 15, row by row, two heads"
    # The first input feature is column 0 of the weight: 0, 4, 8, 12.
    wanted = np.array([[0, 4], [8, 12]])
    expect(np.array(kernel)[0], wanted, f"{what}: key's kernel for the first input feature", 1e-6)
    expect(shift, np.array([[1, 2], [3, 4]]), "bias 1 to 4, two heads: key's bias", 1e-6)
    kernel, shift = f(weight, np.array([1.0, 2, 3, 4]), 2, "output")
    # The first number of the second head is input 2: column 2 of the weight.
    wanted = np.array([2, 6, 10, 14])
    expect(np.array(kernel)[1, 0], wanted, f"{what}: output's kernel for the second head's first "
           "number", 1e-6)  # fmt: skip


@lru_cache
def _real_dense(layer, part):
    name = {"output": "output.dense"}.get(part, f"self.{part}")
    name = f"encoder.layer.{layer}.attention.{name}"
    return _weights(f"{name}.weight"), _weights(f"{name}.bias")


def _kernel_real(f, rng):
    layer = int(rng.integers(6))
    x = _weights("embeddings.word_embeddings.weight", 2200)[rng.integers(1996, 2200, 5)]
    for part in ("query", "value", "output"):
        weight, bias = _real_dense(layer, part)
        kernel, shift = (np.asarray(a) for a in f(weight, bias, 12, part))
        what = f"five word vectors through MiniLM's {part} of layer {layer + 1}, 12 heads"
        if part == "output":
            expect(kernel.shape, (12, 32, 384), f"{what}: shape of the kernel")
            made = np.einsum("nhk,hkd->nd", x.reshape(5, 12, 32), kernel) + shift
        else:
            expect(kernel.shape, (384, 12, 32), f"{what}: shape of the kernel")
            made = (np.einsum("nd,dhk->nhk", x, kernel) + shift).reshape(5, 384)
        wanted = np.array([[row @ unit + b for unit, b in zip(weight, bias, strict=True)]
                           for row in x])  # fmt: skip
        expect(made, wanted, what, 1e-4)


def _to_keras(turned=True, output="heads first", flat=False):
    def wrong(weight, bias, heads, part):
        d, matrix = len(bias), weight.T if turned else weight
        if part != "output":
            return matrix.reshape(d, heads, -1), bias if flat else bias.reshape(heads, -1)
        if output == "like query":
            return matrix.reshape(d, heads, -1), bias
        return (weight if output == "as it is" else matrix).reshape(heads, -1, d), bias

    return wrong


def _interleaved(weight, bias, heads, part):
    """Number by number to the heads in turn, as dealing cards does."""
    d = len(bias)
    if part == "output":
        return weight.T.reshape(-1, heads, d).swapaxes(0, 1), bias
    return weight.T.reshape(d, -1, heads).swapaxes(1, 2), bias.reshape(-1, heads).T


LAYOUT = Task(
    id="ex06.3",
    title="A checkpoint in another layout",
    function="to_keras",
    taught="06#One layer by hand",
    parts=(
        Part("shapes", 1, _kernel_shapes),
        Part("by hand", 2, _kernel_hand),
        Part("MiniLM's own matrices", 2, _kernel_real),
    ),
    probes=lambda rng: [_dense(rng), _dense(rng, "output"), _dense(rng, "value", 2)],
    misconceptions=(
        Misconception(
            "not transposed",
            _to_keras(turned=False),
            "Which axis of PyTorch's weight belongs to the input, and which of Keras' kernel?",
            "PyTorch keeps (output, input), Keras (input, output). The matrix is square, so "
            "nothing complains; a wrong model is all you get.",
        ),
        Misconception(
            "numbers dealt to the heads in turn",
            _interleaved,
            "Which 32 numbers of 384 belong to the first head?",
            "A head owns a stretch of neighbouring outputs. You deal them out like cards, so each "
            "of your heads holds a bit of every real one.",
        ),
        Misconception(
            "output cut like the other three",
            _to_keras(output="like query"),
            "Where do the heads stand in the output's matrix: at its input or at its outcome?",
            "Query, key and value make the heads, so there the outcome is cut. The output reads "
            "the heads, so there it is the input.",
        ),
        Misconception(
            "output not transposed",
            _to_keras(output="as it is"),
            "Your query is right. Does the output's matrix have another layout in PyTorch?",
            "The output is a dense layer like the others: (output, input). The heads stand at its "
            "input, the second axis.",
        ),
        Misconception(
            "bias left flat",
            _to_keras(flat=True),
            "What shape does Keras expect for the bias of 12 heads of 32?",
            "The bias of query, key and value belongs to the heads as the kernel does. Only the "
            "output's stays as it is.",
        ),
    ),
)

# --- ex06.4: mend the attention -----------------------------------------------------------------


def _attended(f, Q, K, V, mask, heads):
    """The rows of the real tokens, one after the other; what padding gets is nobody's business."""
    import numpy as np

    made = f(Q, K, V, mask, heads)
    made = np.asarray(made.detach() if hasattr(made, "detach") else made)
    if made.shape != V.shape:
        return {"shape": list(made.shape)}
    return {"shape": list(made.shape), "rows": made[np.asarray(mask) == 1]}


def _rows(f, Q, K, V, mask, heads, what):
    made = f(Q, K, V, mask, heads)
    expect(made["shape"], list(V.shape), f"{what}: shape")
    return np.asarray(made["rows"])


def _qkv(rng, scale=1.0, n=3, T=5, heads=None):
    heads = heads or int(rng.integers(2, 5))
    d = heads * int(rng.integers(3, 6))
    Q, K, V = scale * rng.normal(size=(3, n, T, d))
    mask = (np.arange(T) < rng.permutation([T, *rng.integers(2, T, n - 1)])[:, None]).astype(int)
    return Q, K, V, mask, heads


def _attention_hand(f, rng):
    Q, K = np.zeros((2, 1, 2, 8))
    Q[0, 0, 0], K[0, 0, 0] = 2, np.log(3)  # first head: 2 ln 3 over the root of 4
    V = np.zeros((1, 2, 8))
    V[0, 0] = 1
    rows = _rows(f, Q, K, V, np.ones((1, 2), int), 2, "two tokens, two heads of 4")
    what = "two tokens, two heads of 4; in the first head q·k is 2 ln 3 and 0, v is 1 and 0"
    expect(rows[0, :4], np.full(4, 0.75), f"{what}: the first head's part of the first token")
    expect(rows[0, 4:], np.full(4, 0.5), f"{what}: the second head's, where all q are 0")


def _attention_heads(f, rng):
    T, heads = 4, 3
    V = rng.normal(size=(1, T, 6))
    Q, K, wanted = np.zeros((1, T, 6)), np.zeros((1, T, 6)), np.empty((T, 6))
    for head in range(heads):
        looks = rng.permutation(T)  # this head of token t looks at token looks[t]
        angle = 2 * np.pi * np.arange(T) / T
        K[0, :, 2 * head : 2 * head + 2] = np.c_[np.cos(angle), np.sin(angle)]
        Q[0, :, 2 * head : 2 * head + 2] = 99 * K[0, looks, 2 * head : 2 * head + 2]
        wanted[:, 2 * head : 2 * head + 2] = V[0, looks, 2 * head : 2 * head + 2]
    what = "three heads of 2; each head of each token looks at one token only, and gets its v"
    expect(_rows(f, Q, K, V, np.ones((1, T), int), heads, what), wanted, what, 1e-5)


def _attention_mask(f, rng):
    _, K, V, _, heads = _qkv(rng, n=2)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    rows = _rows(f, np.zeros_like(K), K, V, mask, heads, "all q are 0")
    what = "all q are 0, so each token gets the mean over the real tokens"
    expect(rows[0], V[0, :3].mean(axis=0), f"{what}; three of five are real")
    Q, K, V, mask, heads = _qkv(rng)
    other = K + 9 * rng.normal(size=K.shape) * (mask == 0)[..., None]
    what = "other vectors at the padded places: the rows of the real tokens"
    kept = _rows(f, Q, K, V, mask, heads, what)
    expect(_rows(f, Q, other, V, mask, heads, what), kept, what)


def _attention_real(f, rng):
    sentences = [_known("product")[k] for k in rng.integers(2000, size=3)]
    rows = [[CLS, *tokens[:9], SEP] for tokens in sentences]
    rows[0] = [*rows[0][:4], SEP]
    X = np.zeros((3, max(map(len, rows)), 384))
    mask = np.zeros(X.shape[:2], int)
    for k, row in enumerate(rows):
        X[k, : len(row)] = 5 * _weights("embeddings.word_embeddings.weight")[row]
        mask[k, : len(row)] = 1
    Q, K, V = (X @ w.T + b for w, b in (_real_dense(0, p) for p in ("query", "key", "value")))
    what = "a real sentence, MiniLM's first layer, 12 heads: alone, and in a batch of three"
    together, n = _rows(f, Q, K, V, mask, 12, what), mask[0].sum()
    alone = _rows(f, *(a[:1, :n] for a in (Q, K, V, mask)), 12, what)
    expect(together[:n], alone, what, 1e-5)
    many = _rows(f, 1000 * Q, K, V, mask, 12, what)
    require(np.isfinite(many).all(), "real sentences, queries a thousand times as long: the "
            "result is not finite")  # fmt: skip


def _attention(cut=True, merged=True, scale="head", mask="before", stable=True, axis=-1):
    def wrong(Q, K, V, real, heads):
        n, T, d = Q.shape
        if cut:
            Q, K, V = (a.reshape(n, T, heads, -1).swapaxes(1, 2) for a in (Q, K, V))
        else:
            Q, K, V = (a.reshape(n, heads, T, -1) for a in (Q, K, V))
        scores = (
            Q @ K.swapaxes(2, 3) / {"head": np.sqrt(d / heads), "all": np.sqrt(d), "no": 1}[scale]
        )
        if mask == "before":
            scores = scores + np.where(real, 0, -1e9)[:, None, None, :]
        if mask == "zero":
            scores = scores * real[:, None, None, :]
        if stable:
            scores = scores - scores.max(axis=axis, keepdims=True)
        A = np.exp(scores)
        A = A / A.sum(axis=axis, keepdims=True)
        if mask == "after":
            A = A * real[:, None, None, :]
        out = A @ V
        return (out.swapaxes(1, 2) if merged else out).reshape(n, T, d)

    return wrong


ATTENTION = Task(
    id="ex06.4",
    title="Mend the attention that runs",
    function="attention",
    taught="06#One layer by hand",
    parts=(
        Part("scaled, by hand", 1, _attention_hand),
        Part("each head its own", 2, _attention_heads),
        Part("padding is not seen", 1, _attention_mask),
        Part("real sentences", 1, _attention_real),
    ),
    probes=lambda rng: [_qkv(rng), _qkv(rng, 2.0), _qkv(rng, 1000.0, heads=2)],
    harness=_attended,
    misconceptions=(
        Misconception(
            "as it was",
            _attention(cut=False, merged=False, scale="all", mask="after", stable=False),
            "Take one head and no padding, and it is nearly right. Then two heads: which numbers "
            "of which token land in a head?",
            "Five things are wrong: the cut into heads, the way back, the scale, the place of the "
            "mask and the exponential of large scores. Test them one by one.",
        ),
        Misconception(
            "heads cut across tokens",
            _attention(cut=False, merged=False),
            "Fill Q with the number of the token. What does one head of one token hold after "
            "your cut?",
            "A reshape alone does not turn axes around. It reads the numbers in their order, so "
            "your first head holds all features of the first tokens instead of the first features "
            "of all tokens.",
        ),
        Misconception(
            "not turned back",
            _attention(merged=False),
            "Which axis stands in front before you join the heads, and which should?",
            "The cut is right, the way back is not: tokens and heads are still exchanged when you "
            "join them.",
        ),
        Misconception(
            "scaled by the whole width",
            _attention(scale="all"),
            "How many numbers does one product q·k add up?",
            "A product of one head adds d/h terms, so its spread is the root of that. Divided by "
            "the root of d the scores are too small, and all attention is flatter than trained.",
        ),
        Misconception(
            "not scaled",
            _attention(scale="no"),
            "What do you divide the products q·k by?",
            "Without the division the scores are too large and the softmax nearly picks one token.",
        ),
        Misconception(
            "mask behind the softmax",
            _attention(mask="after"),
            "Do the weights of a row with padding add up to one?",
            "Padding took its share in the softmax before you set it to zero. What is left adds up "
            "to less than one, and less the more padding there is.",
        ),
        Misconception(
            "scores of padding set to zero",
            _attention(mask="zero"),
            "What is exp(0)?",
            "A score of zero is a score like others: it gets a weight. To get none it has to lie "
            "far below all others.",
        ),
        Misconception(
            "padding is looked at",
            _attention(mask="none"),
            "Change the keys at padded places. Does the result for a real token change?",
            "Either there is no mask, or it lies on the axis of the tokens that look instead of "
            "those that are looked at.",
        ),
        Misconception(
            "exponential of raw scores",
            _attention(stable=False),
            "What is exp(1000) in floating point, and infinity divided by infinity?",
            "The exponential overflows above about 709. Taking the largest score of a row from "
            "all of its scores changes no weight.",
        ),
        Misconception(
            "softmax over the wrong axis",
            _attention(axis=-2),
            "Which weights have to add up to one: those of the token that looks, or of the one "
            "looked at?",
            "Your weights add up to one over the tokens that look. Each token hands out its "
            "attention; nobody has to receive a fixed amount.",
        ),
    ),
)

# --- ex06.5: a probe and its control ------------------------------------------------------------


def _spied(f, X, ids, labels, train, test, seed):
    """What f does with a head that is quickly fitted, in three runs of its coin.

    The numbers depend on the coin. What comes back does not: which labels the head was fitted to,
    and which differences the answers are.
    """
    import numpy as np

    def nearest_mean(X, y):
        X, y = np.asarray(X, float), np.asarray(y)
        classes = np.unique(y)
        means = np.array([X[y == c].mean(axis=0) for c in classes])

        def predict(X):
            gaps = np.asarray(X, float)[:, None] - means
            return classes[(gaps**2).sum(axis=2).argmin(axis=1)]

        return predict

    def accuracy(y, rows):
        return float(np.mean(nearest_mean(X[train], y[train])(X[rows]) == y[rows]))

    def named(value, names):
        return {name for name, known in names.items() if abs(value - known) < 1e-6}

    on_test, in_training = accuracy(labels, test), accuracy(labels, train)
    first, second, tosses, follows = [], [], [], []
    constant, fair = True, True
    for run in range(3):
        asked = []

        def fit(F, y, asked=asked):
            asked.append((np.array(F, float), np.array(y)))
            return nearest_mean(F, y)

        made = np.ravel(f(fit, X, ids, labels, train, test, np.random.default_rng((seed, run))))
        if len(made) != 2:
            return {"numbers": len(made)}
        a, b = made.tolist()
        first.append(named(a, {"accuracy on test": on_test, "accuracy in training": in_training}))
        on_train = [y for F, y in asked if np.array_equal(X[train], F)]
        tossed = [y for y in on_train if not np.array_equal(y, labels[train])]
        if not tossed:
            control = "no second fit on the training rows"
            return {"numbers": 2, "accuracy": sorted(first[0]), "control": control}
        toss = dict(zip(ids[train].tolist(), tossed[-1].tolist(), strict=True))
        y = np.array([toss.get(word, 0) for word in ids.tolist()])
        constant &= np.array_equal(y[train], tossed[-1])
        values, counts = np.unique(list(toss.values()), return_counts=True)
        fair &= set(values.tolist()) == {0, 1} and min(counts) > 0.2 * sum(counts)
        follows.append(np.mean(tossed[-1] == labels[train]))
        tosses.append(sorted(toss.items()))
        c = accuracy(y, test)
        names = {"accuracy - control": a - c, "control - accuracy": c - a, "control": c}
        names["accuracy - control in training"] = a - accuracy(y, train)
        second.append(named(b, names))
    control = "one toss a word"
    if not constant:
        control = "differs within a word"
    elif tosses[0] == tosses[1] == tosses[2]:
        control = "most of the task's labels" if min(follows) > 0.7 else "the same in every run"
    elif not fair:
        control = "no fair coin"
    first, second = set.intersection(*first), set.intersection(*second)
    # Numbers may be equal by chance: what was asked for comes first.
    first, second = first & {"accuracy on test"} or first, second & {"accuracy - control"} or second
    made = {"numbers": 2, "accuracy": sorted(first), "control": control}
    return made | ({"selectivity": sorted(second)} if constant else {})


def _for_a_probe(rng, n=188, fitted=127):
    """Tokens of real sentences, MiniLM's word vectors, mixed with what stands to the left."""
    vectors, articles = _weights("embeddings.word_embeddings.weight"), {1996, 1037, 2019}
    known, left, ids = _known("product"), [], []
    for k in rng.permutation(len(known))[:400]:
        tokens = [token for token in known[k] if token >= 1996 or token == 1037]
        left += tokens[:-1]
        ids += tokens[1:]
    left, ids = np.array(left), np.array(ids)
    frequent = np.isin(ids, np.flatnonzero(np.bincount(ids) >= 12))
    yes = np.isin(left, list(articles))
    rows = np.concatenate([np.flatnonzero(frequent & (yes == side))[:300] for side in (0, 1)])
    rows = rng.permutation(rows)[:n]
    train, test = np.arange(len(rows))[:fitted], np.arange(len(rows))[fitted:]
    test = test[np.isin(ids[rows][test], ids[rows][train])]
    X = vectors[ids[rows]][:, :48] + 0.7 * vectors[left[rows]][:, :48]
    return X, ids[rows], yes[rows].astype(int), train, test, int(rng.integers(2**31))


def _probed(f, rng):
    made = f(*_for_a_probe(rng))
    expect(made["numbers"], 2, "how many numbers come back")
    return made


def _probe_accuracy(f, rng):
    made = _probed(f, rng)
    what = "tokens of real sentences, “does an article stand before it?”: your first number is"
    expect(made["accuracy"], ["accuracy on test"], what)


def _probe_control(f, rng):
    made = _probed(f, rng)
    what = "tokens of real sentences, three runs: the labels of the head fitted for the control"
    expect(made["control"], "one toss a word", what)


def _probe_selectivity(f, rng):
    made = _probed(f, rng)
    control = made["control"]
    require("selectivity" in made, f"this was not looked at, since the control is wrong: {control}")
    what = "tokens of real sentences, three runs: your second number is"
    expect(made["selectivity"], ["accuracy - control"], what)


def _probe(toss="word", of=lambda a, c: a - c, scored="test", control_on="test"):
    def wrong(fit, X, ids, labels, train, test, rng):
        if toss == "word":
            control = rng.integers(0, 2, ids.max() + 1)[ids]
        elif toss == "token":
            control = rng.integers(0, 2, len(ids))
        elif toss == "fixed":
            control = np.random.default_rng(0).integers(0, 2, ids.max() + 1)[ids]
        elif toss == "commonest":
            control = np.array([round(labels[ids == word].mean()) for word in ids])

        def accuracy(y, on):
            rows = {"train": train, "test": test}[on]
            return np.mean(fit(X[train], y[train])(X[rows]) == y[rows])

        a = accuracy(labels, scored)
        return a, of(a, accuracy(control, control_on))

    return wrong


PROBE = Task(
    id="ex06.5",
    title="What a probe knows beyond the words",
    function="selectivity",
    taught="06#What each layer knows",
    parts=(
        Part("the accuracy", 1, _probe_accuracy),
        Part("the control's labels", 2, _probe_control),
        Part("the difference", 1, _probe_selectivity),
    ),
    probes=lambda rng: [_for_a_probe(rng), _for_a_probe(rng, 201, 139)],
    harness=_spied,
    misconceptions=(
        Misconception(
            "a toss for every token",
            _probe(toss="token"),
            "Take a word that stands there ten times. How many labels does it have in your "
            "control?",
            "You toss for every token, or shuffle the labels, which comes to the same. Nothing can "
            "learn that, so your control is at chance and everything seems selective. One toss a "
            "word can be learned by heart, and that is the point.",
        ),
        Misconception(
            "the same coin in every run",
            _probe(toss="fixed"),
            "Call your function with two generators. Does the control change?",
            "Your tosses do not come from the generator that you are given. One draw of the coin "
            "may be easy or hard by luck, and repeating it shows nothing.",
        ),
        Misconception(
            "each word's commonest label",
            _probe(toss="commonest"),
            "Does your control depend on the labels of the task?",
            "You take from the labels what a word tells about them. That is a baseline, and a good "
            "one. The control asks something else: what can be learned where nothing is meant?",
        ),
        Misconception(
            "scored on the training rows",
            _probe(scored="train"),
            "On which rows is your first number measured?",
            "The accuracy is taken where the head was fitted, so it counts what was learned by "
            "heart.",
        ),
        Misconception(
            "the control scored on the training rows",
            _probe(control_on="train"),
            "On which rows are the two heads compared?",
            "The control is scored where it was fitted, the task is not. The control then looks "
            "too good, and the selectivity is too small.",
        ),
        Misconception(
            "control minus task",
            _probe(of=lambda a, c: c - a),
            "Is the selectivity of a good probe positive or negative?",
            "The sign is turned around: asked for is what is left above the control.",
        ),
        Misconception(
            "the control itself",
            _probe(of=lambda a, c: c),
            "Which two numbers does selectivity compare?",
            "You return the accuracy of the control. Selectivity is how far the task is above it.",
        ),
    ),
)

# --- ex06.6: mend the embedding script ----------------------------------------------------------


def _embedded_pytorch(f, rows, size, seed):
    """Rows through a small encoder that is in training mode; then once more without dropout."""
    import numpy as np
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.drop = nn.Embedding(40, 6), nn.Dropout(0.2)

        def forward(self, ids, mask):
            x = self.drop(self.words(ids))
            scores = x @ x.transpose(1, 2) + (1.0 - mask[:, None, :].float()) * -1e9
            return x + scores.softmax(dim=-1) @ x

    model, words = Encoder(), np.random.default_rng(seed).normal(size=(40, 6)).astype("float32")
    with torch.no_grad():
        model.words.weight.copy_(torch.from_numpy(words))
    made = []
    for rate in (0.2, 0.0):
        model.drop.p = rate
        vectors = f(model.train(), [np.array(row) for row in rows], size)
        vectors = vectors.detach() if hasattr(vectors, "detach") else vectors
        made.append(np.array([np.asarray(vector) for vector in vectors]))
    dropped, among = made
    steady = dropped.shape == among.shape and bool(np.allclose(dropped, among, 1e-5, 1e-5))
    alone = []
    for row in rows:
        x = words[row]
        e = np.exp(x @ x.T)
        alone.append((x + e / e.sum(axis=1, keepdims=True) @ x).mean(axis=0))
    return {"steady": steady, "vectors": among, "alone": np.array(alone)}


def _embedded_keras(f, rows, size, seed):
    """Rows through a small encoder with dropout; then once more without dropout."""
    import keras
    import numpy as np
    from keras import ops

    class Encoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.words, self.drop = keras.layers.Embedding(40, 6), keras.layers.Dropout(0.2)

        def call(self, inputs, training=False):
            x = self.drop(self.words(inputs["token_ids"]), training=training)
            real = ops.cast(inputs["padding_mask"], x.dtype)[:, None, :]
            scores = ops.matmul(x, ops.transpose(x, (0, 2, 1))) + (1.0 - real) * -1e9
            return x + ops.matmul(ops.softmax(scores, axis=-1), x)

    model, words = Encoder(), np.random.default_rng(seed).normal(size=(40, 6)).astype("float32")
    model.words.build()
    model.words.set_weights([words])
    made = []
    for rate in (0.2, 0.0):
        model.drop.rate = rate
        model.predict_function = None  # traced at the other rate, should it have been used
        vectors = f(model, [np.array(row) for row in rows], size)
        made.append(np.array([np.asarray(vector) for vector in vectors]))
    dropped, among = made
    steady = dropped.shape == among.shape and bool(np.allclose(dropped, among, 1e-5, 1e-5))
    alone = []
    for row in rows:
        x = words[row]
        e = np.exp(x @ x.T)
        alone.append((x + e / e.sum(axis=1, keepdims=True) @ x).mean(axis=0))
    return {"steady": steady, "vectors": among, "alone": np.array(alone)}


def _token_rows(rng, size=3):
    """Rows of unlike length, none in its place when sorted, the last batch a part of one."""
    lengths = rng.permutation([2, 3, 4, 5, 6, 8, 9, 12])[: 3 * size - 1 if size < 3 else 8]
    while (np.argsort(np.argsort(lengths)) == np.argsort(lengths)).all():
        lengths = rng.permutation(lengths)
    return [rng.integers(1, 40, n).tolist() for n in lengths], size, int(rng.integers(2**31))


def _company(f, rows, size, seed):
    made = f(rows, size, seed)
    vectors = np.asarray(made["vectors"])
    what = f"{len(rows)} rows in batches of {size}: shape of the vectors"
    expect(list(vectors.shape), list(np.shape(made["alone"])), what)
    return vectors, np.asarray(made["alone"]), made["steady"]


def _embed_steady(f, rng):
    _, _, steady = _company(f, *_token_rows(rng))
    require(
        steady, "the vectors of the same rows change with chance: dropout is at work in the model"
    )


def _places(f, rows, size, seed):
    """Where among the vectors each row's own is, as it comes out alone."""
    vectors, alone, _ = _company(f, rows, size, seed)
    gaps = np.abs(vectors[:, None] - alone).max(axis=2)
    for k, row in enumerate(rows):
        what = f"{len(rows)} rows in batches of {size}: row {k}, {len(row)} tokens,"
        if gaps[:, k].min() > 1e-4:
            nearest = vectors[gaps[:, k].argmin()]
            expect(nearest, alone[k], f"{what} and the vector of yours that is nearest", 1e-4)
    return gaps.argmin(axis=0).tolist()


def _embed_alone(f, rng):
    rows, _, seed = _token_rows(rng)
    _places(f, rows, 1, seed)


def _embed_company(f, rng):
    for size in (3, 8):
        rows, _, seed = _token_rows(rng)
        _places(f, rows, size, seed)


def _embed_order(f, rng):
    rows, _, seed = _token_rows(rng)
    found = _places(f, rows, 1, seed)
    lengths = [len(row) for row in rows]
    what = f"rows of {lengths} tokens, one in a batch: the places where their vectors stand"
    expect(found, list(range(len(rows))), what)


def _torch_embed(order="undone", told=True, pool="real", train=False, last=True):
    def wrong(model, rows, batch_size):
        import torch

        model.train(train)
        by_length = sorted(range(len(rows)), key=lambda k: len(rows[k]))
        vectors = []
        stop = len(rows) if last else len(rows) - len(rows) % batch_size
        for first in range(0, stop, batch_size):
            batch = [rows[k] for k in by_length[first : first + batch_size]]
            ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
            for k, row in enumerate(batch):
                ids[k, : len(row)] = torch.tensor(row)
            mask = (ids > 0).long()
            with torch.no_grad():
                states = model(ids, mask if told else torch.ones_like(ids))
            vectors.append(_pooled(states.numpy(), mask.numpy(), pool))
        return _in_order(np.concatenate(vectors), by_length, order)

    return wrong


def _keras_embed(order="undone", told=True, pool="real", train=False, last=True):
    def wrong(model, rows, batch_size):
        by_length = sorted(range(len(rows)), key=lambda k: len(rows[k]))
        vectors = []
        stop = len(rows) if last else len(rows) - len(rows) % batch_size
        for first in range(0, stop, batch_size):
            batch = [rows[k] for k in by_length[first : first + batch_size]]
            ids = np.zeros((len(batch), max(map(len, batch))), "int32")
            for k, row in enumerate(batch):
                ids[k, : len(row)] = row
            mask = (ids > 0).astype("int32")
            inputs = {"token_ids": ids, "padding_mask": mask if told else np.ones_like(ids)}
            states = np.asarray(model(inputs, training=train))
            vectors.append(_pooled(states, mask, pool))
        return _in_order(np.concatenate(vectors), by_length, order)

    return wrong


def _pooled(states, mask, pool):
    real = mask[..., None]
    if pool == "first":
        return states[:, 0]
    if pool == "real":
        return (states * real).sum(axis=1) / real.sum(axis=1)
    return (states * real if pool == "zeros" else states).mean(axis=1)


def _in_order(vectors, by_length, order):
    if order == "undone":
        return vectors[np.argsort(by_length)] if len(vectors) == len(by_length) else vectors
    return vectors[by_length] if order == "again" else vectors


def _embeds(**how):
    return dict(tensorflow=_keras_embed(**how), pytorch=_torch_embed(**how))


EMBED = Task(
    id="ex06.6",
    title="Mend the vectors that depend on their company",
    function="embed",
    taught="06#One vector a sentence",
    parts=(
        Part("nothing left to chance", 1, _embed_steady),
        Part("a row alone", 1, _embed_alone),
        Part("a row in company", 2, _embed_company),
        Part("in the order given", 1, _embed_order),
    ),
    probes=lambda rng: [_token_rows(rng), _token_rows(rng, 2)],
    harness={"tensorflow": _embedded_keras, "pytorch": _embedded_pytorch},
    seconds=10.0,  # Keras traces predict anew for batches of another length
    misconceptions=(
        Misconception(
            "as it was",
            _embeds(order="sorted", told=False, pool="all", train=True),
            "Embed the same rows twice. Then one row alone and in company. Then ask which row the "
            "first vector belongs to.",
            "There are four bugs: dropout is at work, the model is not told what is padding, the "
            "mean takes padding in, and the vectors come back sorted by length.",
        ),
        Misconception(
            "dropout at work",
            _embeds(train=True),
            "Embed the same rows twice. Are the vectors equal?",
            "Each call drops other numbers. Vectors are taken in evaluation mode.",
        ),
        Misconception(
            "sorted by length",
            _embeds(order="sorted"),
            "To which row does your first vector belong?",
            "Sorting by length saves padding, and your vectors stay sorted. Labels and texts "
            "beside them are not.",
        ),
        Misconception(
            "sorted once more",
            _embeds(order="again"),
            "Follow one row: from which place to which does the sorting take it, and where does "
            "your way back put it?",
            "You index with the order of the sorting again. That is not its inverse: it shuffles a "
            "second time.",
        ),
        Misconception(
            "the model is not told what is padding",
            _embeds(told=False),
            "Embed one row alone and beside a longer one. Your mean is right; who else looks at "
            "the padding?",
            "The mean leaves the padding out, the attention does not: real tokens have looked at "
            "it before you average them.",
        ),
        Misconception(
            "padding in the mean",
            _embeds(pool="all"),
            "Embed one row alone and beside a longer one. Over how many tokens do you average?",
            "The model knows what is padding, your mean does not. The vectors at padded places are "
            "no zeros.",
        ),
        Misconception(
            "divided by the longest",
            _embeds(pool="zeros"),
            "By which number do you divide the sum of a short row?",
            "You set padding to zero and then average over all places, so a short row beside a "
            "long one gets a short vector.",
        ),
        Misconception(
            "the first token",
            _embeds(pool="first"),
            "How many tokens of a row go into its vector?",
            "You take the vector of the first token. That is another pooling, and MiniLM was not "
            "trained for it; asked for is the mean.",
        ),
        Misconception(
            "the last batch is dropped",
            _embeds(last=False),
            "How many vectors come back if the rows do not fill the last batch?",
            "Your loop ends with the last full batch. The rows of the one that is not full are "
            "lost.",
        ),
    ),
)

# --- ex06.7: how good is a search? --------------------------------------------------------------


@lru_cache
def _articles(rows=150):
    """Editorial sentences, each the mean of MiniLM's word vectors, and their article numbers."""
    from tlcourse import datasets

    vectors = _weights("embeddings.word_embeddings.weight")
    E = np.array([vectors[tokens].mean(axis=0) for tokens in _known("editorial")[:rows]])
    return E.astype(float), datasets.sentiment("editorial").blocks[:rows]


def _points(rng, n=12, d=4):
    """Vectors of unlike length in groups of unlike size, one without a relative; some of them tie.

    Their directions are axes, so that equal cosines are equal in floating point too.
    """
    E = rng.normal(size=(n, d)) * rng.uniform(0.2, 6.0, (n, 1))
    E[:4] = np.eye(d)[rng.integers(0, 2, 4)] * 2.0 ** rng.integers(-2, 3, (4, 1))
    groups = np.concatenate([[0, 1, 0, 1], rng.permutation(np.arange(n - 4) % 3)])
    groups[-1] = 99
    return E, groups


def _search_hand(f, rng):
    angle = np.radians([0, 10, 30, 35, 90])
    E = np.c_[np.cos(angle), np.sin(angle)]
    groups = np.array([0, 1, 0, 1, 0])
    # Nearest first: 0 sees 1 2 3 4; 1 sees 0 2 3 4; 2 sees 3 1 0 4; 3 sees 2 1 4 0; 4 sees 3 2 1 0.
    what = "unit vectors at 0°, 10°, 30°, 35° and 90°, groups 0 1 0 1 0; ranks 2, 3, 3, 2 and 2"
    expect(f(E, groups), [0.0, (3 / 2 + 2 / 3) / 5], what)
    what = "the same vectors, groups 0 0 1 1 1; ranks 1, 1, 1, 1 and 1"
    expect(f(E, np.array([0, 0, 1, 1, 1])), [1.0, 1.0], what)
    what = "the same vectors, groups 0 1 0 0 1; ranks 2, 4, 1, 1 and 3"
    expect(f(E, np.array([0, 1, 0, 0, 1])), [0.4, (1 / 2 + 1 / 4 + 2 + 1 / 3) / 5], what)


def _search_length(f, rng):
    E, groups = _points(rng)
    stretched = E * 2.0 ** rng.integers(-3, 4, (len(E), 1))
    expect(f(stretched, groups), f(E, groups), "12 vectors, and the same at other lengths")
    angle = np.radians([0, 20, 80])
    E = np.c_[np.cos(angle), np.sin(angle)] * [[1], [1], [9]]
    what = "vectors at 0°, 20° and 80° of lengths 1, 1 and 9, groups 0 0 1"
    expect(f(E, np.array([0, 0, 1])), [1.0, 1.0], what)


def _search_alone(f, rng):
    E, groups = np.eye(5)[[0, 0, 1, 2, 3]], np.array([7, 7, 1, 2, 3])
    what = "two equal vectors of one group, three others that are alone in theirs"
    expect(f(E, groups), [1.0, 1.0], what)
    what = "five equal vectors, groups 0 0 1 1 1: nothing is told apart, ranks 4, 4, 3, 3 and 3"
    expect(f(np.ones((5, 1)), np.array([0, 0, 1, 1, 1])), [0.0, (2 / 4 + 3 / 3) / 5], what)


# Recorded with scikit-learn's cosine_similarity: 150 sentences; those of even row numbers only.
FOUND = ((0.24161, 0.35478), (0.1831, 0.29086))


def _search_real(f, rng):
    E, groups = _articles()
    expect(f(E, groups), FOUND[0], "150 editorial sentences as mean word vectors", 1e-3)
    expect(f(E[::2], groups[::2]), FOUND[1], "75 of these sentences", 1e-3)
    order = rng.permutation(len(E))
    expect(f(E[order], groups[order]), FOUND[0], "the 150 in another order", 1e-3)


def _search(itself=False, alone="left out", ties="last", cosine=True, rank="first", of="1/rank"):
    def wrong(E, groups):
        F = E / np.linalg.norm(E, axis=1, keepdims=True) if cosine else E
        ranks = []
        for row in range(len(E)):
            similar, related = F @ F[row], groups == groups[row]
            others = ~related
            related[row] = itself
            if not related.any():
                if alone == "zero":
                    ranks.append(np.inf)
                continue
            pick = {"first": np.max, "all": np.min, "mean": np.mean}[rank]
            best = pick(similar[related])
            beaten = similar[others] >= best if ties == "last" else similar[others] > best
            ranks.append(1 + beaten.sum())
        ranks = np.array(ranks, float)
        mean = np.mean(1 / ranks) if of == "1/rank" else 1 / np.mean(ranks)
        return np.mean(ranks == 1), mean

    return wrong


SEARCH = Task(
    id="ex06.7",
    title="How good is a search?",
    function="search_scores",
    taught="06#Search by meaning",
    parts=(
        Part("by hand", 2, _search_hand),
        Part("length does not count", 1, _search_length),
        Part("alone, and equal", 1, _search_alone),
        Part("editorial sentences", 1, _search_real),
    ),
    probes=lambda rng: [_points(rng), _points(rng, 15), _points(rng, 20, 3)],
    misconceptions=(
        Misconception(
            "the query finds itself",
            _search(itself=True),
            "What is nearest of all to a sentence, and is it in the list that you search?",
            "Each query finds itself first, so every model gets a full score, and one that knows "
            "nothing too.",
        ),
        Misconception(
            "plain product",
            _search(cosine=False),
            "Make one vector ten times as long. Does it become everybody's nearest?",
            "A product of vectors that are not of length one grows with their length. Long ones "
            "then stand first for all queries.",
        ),
        Misconception(
            "queries without an answer count as failed",
            _search(alone="zero"),
            "What should a search find for a sentence that is alone in its group?",
            "For such a query there is nothing to find, so it says nothing about the vectors. "
            "With these in the mean your scores depend on how many there are.",
        ),
        Misconception(
            "equal counts as found first",
            _search(ties="first"),
            "Which score do vectors get that are all the same?",
            "In a tie you put the relative first. A model that gives one vector to everything "
            "then has a perfect score.",
        ),
        Misconception(
            "one over the mean rank",
            _search(of="mean"),
            "Ranks 1 and 3: what is the mean of 1/1 and 1/3, and what is one over 2?",
            "You average first and take one over it then. A few queries that fail far down then "
            "decide the number; the mean of the reciprocals hardly feels them.",
        ),
        Misconception(
            "rank of the last relative",
            _search(rank="all"),
            "If a query has three relatives, the rank of which one counts?",
            "You wait until all relatives are found. Asked for is the first: a person who searches "
            "is content with one.",
        ),
    ),
)

TASKS = (ENCODE, START, LAYOUT, ATTENTION, PROBE, EMBED, SEARCH)
