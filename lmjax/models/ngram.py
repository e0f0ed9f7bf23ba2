"""n-gram language models with interpolated modified Kneser-Ney smoothing: counts, no gradients, NumPy alone.

Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", TR-10-98, section 3. With a(.)
the count of a k-gram and h its first k - 1 tokens, h' these without the first,

    p_k(w | h) = max(a(h w) - D_k(a(h w)), 0) / sum_v a(h v) + gamma_k(h) p_{k-1}(w | h'),      p_0(w) = 1 / vocabulary,

D_k has one value each for counts 1, 2 and 3 or more, and gamma_k(h) is what the discounts took away. At the highest
order a(.) is how often a k-gram occurred; below, how many different tokens were seen before it (continuation counts).
A k-gram that begins a document, <doc> first, has nothing before it and keeps how often it occurred (Heafield 2011, KenLM).

A document is `<doc> t1 .. tm` and ends by predicting <doc>; no n-gram reaches over the border of two.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts give none (KenLM's --discount_fallback)


class Order(NamedTuple):
    """All k-grams of one k in lexicographic order; k-gram i is `keys[i] % vocab` after the (k-1)-gram `keys[i] // vocab`.

    keys: int64 (m,), ascending; of order 1 they are the tokens themselves, all of them. counts: int32 or int64 (m,).
    """

    keys: np.ndarray
    counts: np.ndarray


class Share(NamedTuple):
    """An order as probabilities: of each k-gram what is left after the discount, and of each context what it gives on."""

    own: np.ndarray  # float64 (m,)
    rest: np.ndarray  # float64, by (k-1)-gram; 1 where nothing was seen to follow


@dataclass(frozen=True)
class Ngram:
    """A model of order `len(orders)` over `vocab` ids, <doc> among them."""

    vocab: int
    orders: tuple[Order, ...]

    @functools.cached_property
    def discounts(self) -> list[tuple[float, float, float]]:
        """D1, D2, D3+ of every order."""
        return [discounts(order.counts) for order in self.orders]

    @functools.cached_property
    def shares(self) -> list[Share]:
        """Every order as probabilities."""
        sizes = [1, *(len(order.keys) for order in self.orders)]
        made = zip(self.orders, self.discounts, sizes, strict=False)
        return [_share(order, order.keys // self.vocab, taken, size) for order, taken, size in made]

    def log_probs(self, tokens: np.ndarray, targets: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """log p(target | context) float64 (b, t) of rows as models get them; 0 where the segment is 0, padding.

        The context is what the row has of the target's document before it: where a row begins amid a document, the
        first tokens have fewer than order - 1 before them, just as a neural model sees nothing of the rows before.
        """
        b, t = tokens.shape
        joined = np.zeros((b, t), bool)  # to the position before
        joined[:, 1:] = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        joined, tokens, targets = joined.ravel(), tokens.ravel().astype(np.int64), targets.ravel().astype(np.int64)
        unigram = self.shares[0]
        p, ids = unigram.own[targets] + unigram.rest[0] / self.vocab, tokens  # ids: of the k-gram that ends there
        for k, (order, share) in enumerate(zip(self.orders[1:], self.shares[1:], strict=True), 2):
            held = np.flatnonzero(ids >= 0)
            found = _find(order.keys, ids[held] * self.vocab + targets[held])
            own = np.where(found >= 0, share.own[found], 0.0)
            p[held] = own + share.rest[ids[held]] * p[held]
            if k < len(self.orders):
                before = np.where(joined, np.roll(ids, 1), -1)
                held = np.flatnonzero(before >= 0)
                ids = np.full_like(ids, -1)
                ids[held] = _find(order.keys, before[held] * self.vocab + tokens[held])
        return np.where(segments.ravel() > 0, np.log(p), 0.0).reshape(b, t)

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """p(. | context) float64 (vocab,), from the last order - 1 tokens of the context, which begins with <doc>."""
        p = self.shares[0].own + self.shares[0].rest[0] / self.vocab
        for k in range(2, min(len(self.orders), len(context) + 1) + 1):
            number = self._number(context[len(context) - k + 1 :])
            if number < 0:  # nor was any longer one seen
                break
            order, share = self.orders[k - 1], self.shares[k - 1]
            first, last = np.searchsorted(order.keys, [number * self.vocab, (number + 1) * self.vocab])
            p = share.rest[number] * p
            p[order.keys[first:last] - number * self.vocab] += share.own[first:last]
        return p

    def _number(self, gram: np.ndarray) -> int:
        """The number of a k-gram among those of its order, or -1."""
        number = int(gram[0])
        for order, token in zip(self.orders[1:], gram[1:], strict=False):
            number = int(_find(order.keys, np.array([number * self.vocab + int(token)]))[0])
            if number < 0:
                break
        return number


def count(stream: np.ndarray, *, order: int, vocab: int, doc: int) -> Ngram:
    """The model of documents one after the other: `stream` (n,) ids below `vocab`, each document <doc> first.

    All positions are sorted once by the `order` tokens from there on, a pass of radix sort a token, and every order is
    read off the borders in the sorted list. Memory: 30 bytes a token, and 12 for each different k-gram.
    """
    n, kind = len(stream), np.uint16 if vocab <= 1 << 16 else np.uint32
    padded = np.concatenate([stream.astype(kind), np.full(order, doc, kind)])
    unigrams = np.bincount(padded[1 : n + 1], minlength=vocab)
    orders = [Order(np.arange(vocab), unigrams if order == 1 else np.zeros(vocab, np.int64))]
    places = _sorted(padded, n, order)
    rank = np.empty(n, np.int32)
    rank[places] = np.arange(n, dtype=np.int32)
    column = padded[places]
    ids, begun = column.astype(np.int32), column == doc  # of the (k-1)-gram at each place; whether it begins a document
    border, mixed = _borders(column), np.zeros(n, bool)  # mixed: of two documents, with a <doc> amid the tokens
    for k in range(2, order + 1):
        column = padded[places + np.int32(k - 1)]
        border |= _borders(column)
        firsts = np.flatnonzero(border)
        sizes, held = np.diff(firsts, append=n), ~mixed[firsts]
        heads = firsts[held]
        keys = ids[heads].astype(np.int64) * vocab + column[heads]
        shorter = column[heads] if k == 2 else ids[rank[places[heads] + 1]]  # what a k-gram is without its first token
        below = orders[-1]
        orders[-1] = below._replace(counts=below.counts + np.bincount(shorter, minlength=len(below.keys)))
        orders.append(Order(keys, np.where(begun[heads] | (k == order), sizes[held], 0)))
        ids = np.repeat(np.cumsum(held, dtype=np.int32) - np.int32(1), sizes)
        mixed |= column == doc
    return Ngram(vocab, tuple(Order(found.keys, found.counts.astype(np.int32)) for found in orders))


def _sorted(padded: np.ndarray, n: int, order: int) -> np.ndarray:
    """The first n places int32 (n,), by the tokens from there on: sorted by the last one first, as NumPy's stable sort
    of 16 bits is a radix sort."""
    places = np.arange(n, dtype=np.int32)
    for j in reversed(range(order)):
        column = padded[j : j + n]
        for digit in (
            (column,) if column.dtype == np.uint16 else (column.astype(np.uint16), (column >> 16).astype(np.uint16))
        ):
            places = places[np.argsort(digit[places], kind="stable")]
    return places


def _borders(column: np.ndarray) -> np.ndarray:
    """Where another token begins."""
    border = np.ones(len(column), bool)
    np.not_equal(column[1:], column[:-1], out=border[1:])
    return border


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The index in sorted keys of each wanted one, -1 where there is none. Sorted first: five times as fast."""
    order = np.argsort(wanted)
    ordered = wanted[order]
    at = np.searchsorted(keys, ordered)
    at[at == len(keys)] = 0
    found = np.empty(len(wanted), np.int64)
    found[order] = np.where(keys[at] == ordered, at, -1) if len(keys) else -1
    return found


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """D1, D2, D3+ of an order from how many k-grams were counted once to four times (Chen & Goodman 1998, eq. 26).

    `FALLBACK` where one of these is 0 or a discount would not be from 0 to its count: of bytes most of order 1.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == c)) for c in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 <= d <= c for c, d in enumerate(found, 1)) else FALLBACK


def _share(order: Order, contexts: np.ndarray, taken: tuple[float, float, float], size: int) -> Share:
    """The order's probabilities: contexts (m,) are the (k-1)-grams of its k-grams, of which there are `size`."""
    taken_m = np.array([0.0, *taken])[np.minimum(order.counts, 3)]
    totals = np.bincount(contexts, order.counts, size)
    rest = np.bincount(contexts, taken_m, size)
    seen = totals > 0
    rest[seen] /= totals[seen]
    rest[~seen] = 1.0
    return Share((order.counts - taken_m) / np.maximum(totals[contexts], 1), rest)
