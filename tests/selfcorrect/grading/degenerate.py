"""Answers that have no value, or another one by very little, against references that they must never equal.

    python tests/selfcorrect/grading/degenerate.py --count 5000 [--seed 0]

A grammar: a degenerate value (a pole, 0/0, an undefined power, a sum without terms, something that diverges, a control
character, a name of the answer) or a tail far below or beside the reference, wrapped so that careless algebra loses it
(``R + 0·D``, ``R·D^0``, ``R + D - D``, ``max(R, D)`` …), within an expression, tuple, list, set, interval, matrix or
equation. The script prints what is accepted or breaks the grader: nothing may be.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from selfcorrect.grading import gold_is_readable, grade


def listed(text: str) -> list[str]:
    """Return the entries of a table: two blanks or a line break stand between them."""
    return re.split(r"\s{2,}", text.strip())


ZERO = listed(r"""
    0  (1-1)  \ln 1  \sin\pi  (\sin^2 1+\cos^2 1-1)  (\sqrt{5+2\sqrt6}-\sqrt2-\sqrt3)  (x-x)  \log_5 1
    (2^{100000}-4^{50000})  \cos\frac{\pi}{2}  (e^{\ln 3}-3)  \lfloor 0.5\rfloor  (\frac12-0.5)  0^2
""")
POLES = listed(r"""
    \ln {z}  \log {z}  \lg({z})  \frac{{1}}{{{z}}}  \frac{{x}}{{{z}}}  ({z})^{{-1}}  ({z})^{{-2}}  \cot {z}
    \csc {z}  \coth({z})  \Gamma({z})  \operatorname{{arctanh}}(1-{z})  \log_{{1-{z}}} 5
    \tan(\frac{{\pi}}{{2}}+{z})  \sec(\frac{{\pi}}{{2}}+{z})  \sqrt[{z}]{{5}}  ({z}-3)!  \ln\ln(1+{z})
    \frac{{{z}}}{{{z}}}  ({z})^{z}  ({z})^{{i}}  1^{{\log_{{{z}}} 3}}
    \log_{{{z}}} 3  \log_{{{z}-2}} 3  \zeta(1+{z})  \operatorname{{erf}}^{{-1}}(1-{z})
    \frac{{\ln(1+{z})}}{{{z}}}  \ln|{z}|  5 \bmod {z}
""")
DIVERGENT = listed(r"""
    \sum_{k=1}^{\infty} k  \sum_{k=1}^{\infty}\frac1k  \int_0^1 \frac{1}{t}\,dt  \int_{-1}^{1}\frac{1}{t}\,dt
    \lim_{t\to 0}\frac1t  \lim_{t\to\infty} t  \prod_{k=1}^{\infty} 2  \sum_{k=1}^{\infty}(-1)^k
    \lim_{t\to\infty}\sin t  \int_1^{\infty} t\,dt  \infty  (\infty-\infty)  \frac{\infty}{\infty}
    \lim_{t\to 0}\frac{|t|}{t}  \sum_{k=1}^{\infty}2^k  \int_{-1}^{1}\frac{1}{t^2}\,dt
""")
EMPTY = listed(r"""
    \sum_{k=5}^{1} k  \prod_{k=9}^{2} k  \int_2^2 \frac{1}{t-2}\,dt  \sum_{k=3}^{2} k^2  \sum_{k=1}^{0}\frac1k
""")
NAMES = listed(r"""
    \text{%s}  \mathrm{%s}  \mbox{%s}  \textbf{%s}  %s
""")
CONTROL = [
    "\x00",
    "\x01",
    "\x07",
    "\x08",
    "\x1b",
    "\x7f",
    "\u0085",
    "\u200b",
    "\u202e",
    "\ufffe",
    "\ud800",
    "\x00\x00",
    "\x0c",
]
WORDS = listed(r"""
    answer  the answer  same  correct  gold  reference  x=x  0=0  1=1  f(x)=f(x)  ?  *  any  y  \boxed{}
    \square  \cdot  \ldots  N/A  null  nan  inf  None  True  \\  {}  ()  []
""")
WRAPPERS = listed(r"""
    {d}  -{d}  {r}+0\cdot {d}  {r}-0\cdot {d}  {r}\cdot ({d})^0  {r}+({d})-({d})  ({r})\frac{{{d}}}{{{d}}}
    \max({r},{d})  \min({r},{d})  {r}+\frac{{1}}{{{d}}}  {r}+\frac{{0}}{{{d}}}  |{d}|  \sqrt{{{d}}}  {d}+{r}
    {r}\cdot({d})  \frac{{{r}}}{{{d}}}  x = {d}  {d} = {r}  {r} = {d}  \lfloor {d}\rfloor  {d}\%  {d}^\circ
    {d}\text{{ cm}}  e^{{{d}}}+{r}  {r}+0^{{{d}}}  \operatorname{{Re}}({d})+{r}  ({r})^{{1+0\cdot {d}}}
    {r}\cdot 1^{{{d}}}  \int_0^0 {d}\,dt+{r}  \gcd({r},{d})  {d},{d}  \{{{d}\}}  ({d})
    {r}+\frac{{{d}}}{{{d}}}-1  \sum_{{k=1}}^{{4}}\frac{{{r}}}{{4}}\cdot 1^{{{d}}}  \lim_{{t\to 1+{d}}}({r})
    \prod_{{k=1}}^{{1}}({r})\cdot 1^{{{d}}}  \int_0^1 ({r})\cdot 1^{{{d}}}\,dt  \sum_{{k={d}}}^{{{d}}}({r})
    \sum_{{k=1}}^{{3}}\frac{{{r}}}{{3}}(1+\frac{{0}}{{k-2}})  \prod_{{k=1}}^{{3}}({r})^{{\frac13+\frac{{0}}{{k-2}}}}
    {r} = {d} = {r}  x = {d} = {r}  x = 1 = {d} = {r}  \lim_{{t\to 0}}({r}+0\cdot {d})
    \sum_{{k=1}}^{{2}}\sum_{{j=1}}^{{2}}\frac{{{r}}}{{4}}1^{{{d}}}
""")
TAILS = listed(r"""
    {r}+e^{{-1000}}  {r}+10^{{-500}}  {r}+10^{{-5000}}  ({r})(1+10^{{-450}})  {r}+\frac{{1}}{{2000!}}
    {r}+9^{{-9^{{9}}}}  {r}+\ln 2+10^{{400}}-10^{{400}}  ({r}+10^{{400}}+\ln 2)-10^{{400}}
    {r}+2^{{100000}}+1-4^{{50000}}  {r}+\sin(10^{{-400}})  {r}+10^{{400}}+\ln 2  {r}+200!+\ln 2  {r}+e^{{800}}
    10^{{309}}+\ln 2  {r}+9^{{9^{{9^9}}}}  {r}+1E400000000  {r}+e^{{e^{{e^{{10}}}}}}  {r}+\cosh 800
    ({r})\cdot 10^{{10^{{9}}}}  \frac{{{r}}}{{10^{{600}}+\ln 2}}  {r}+\frac{{1}}{{10^{{600}}+\ln 2}}
    {r}+\lfloor x\rfloor-x  {r}+\prod_{{k=2}}^{{12}}(n-k)  {r}+\sin(\pi\binom{{x}}{{1}})  {r}+\sqrt{{x^2}}-x
    {r}+(-1)^{{2x}}-1  {r}+\lfloor 1-10^{{-400}}\rfloor-1  {r}+\operatorname{{sgn}}(x)-1
""")
WORDED = listed(r"""
    ({r})\cdot\frac{{\text{{{w}}}}}{{\text{{{w}}}}}  \max({r},\text{{{w}}})  {r}+\text{{{w}}}-\text{{{w}}}
    \gcd({r},\text{{{w}}})  \min(\text{{{w}}},{r})  ({r})\frac{{\mathrm{{{w}}}}}{{\mathrm{{{w}}}}}  {r}=\max()
    \max({r},)  {r} = \frac{{\text{{{w}}}}}{{\text{{{w}}}}}\cdot({r})  \sqrt{{\text{{{w}}}}}+{r}
    ({r})^{{\text{{{w}}}}}+0  {r}=\text{{{w}}}1  \sum_{{k=1}}^{{\text{{{w}}}}}({r})  {r}+0\cdot\max()
""")
"""Words, blanks and control characters where a value should be."""
SCALARS = listed(r"""
    {n}  {m}  \frac{{{n}}}{{{m}}}  {n}.{k}  {m}\sqrt{{{j}}}  {k}\pi  e^{{{k}}}  \ln {m}  x^{{{j}}}+{m}  {m}x-{k}
    \frac{{x+{k}}}{{x-{m}}}  2^{{{n}}}  {m}!  \sin {k}  {k}i  \frac{{\pi^{{2}}}}{{{m}}}  {m}^{{{p}}}  {m}\%  {m}^\circ
    \sqrt{{{m}}}+{k}  n^2+{m}  {k}a+{m}b
""")
STRUCTURED = listed(r"""
    ({a}, {b})  {a}, {b}  \{{{a}, {b}\}}  [{a}, {b}]  ({a}, {b}]  x = {a}  y = {b}x+{a}  x > {a}  {a} < x < {b}
    \begin{{pmatrix}}{a}&{b}\\{b}&{a}\end{{pmatrix}}  \begin{{pmatrix}}{a}\\{b}\end{{pmatrix}}  {a} : {b}
    \{{{a}\}} \cup (-\infty, -10^9-({b})^2)  (x, y) = ({a}, {b})  {a} \text{{ or }} {b}  x^2+{a}y = {b}
""")


def scalar(rng: random.Random) -> str:
    """Return a reference that is a quantity."""
    n, m, k = rng.choice([-1, 1]) * rng.randint(1, 99), rng.randint(2, 30), rng.randint(1, 9)
    return rng.choice(SCALARS).format(n=n, m=m, k=k, j=k + 1, p=7 * m)


def structured(rng: random.Random, parts: list[str]) -> str:
    """Return an answer of several quantities."""
    return rng.choice(STRUCTURED).format(a=parts[0], b=parts[1])


def degenerate(rng: random.Random) -> str:
    """Return something without a value."""
    kind = rng.randrange(10)
    if kind < 6:
        return rng.choice(POLES).format(z=rng.choice(ZERO))
    return rng.choice(DIVERGENT) if kind < 9 else rng.choice(EMPTY)


def spoiled(rng: random.Random, value: str) -> str:
    """Return a quantity that is not the value: the value with something degenerate or small about it."""
    if rng.random() < 0.15:
        return rng.choice(WORDED).format(r=value, w=rng.choice([" ", "", "a b", "of the", "?", *CONTROL]))
    if rng.random() < 0.3:
        return rng.choice(TAILS).format(r=value)
    return rng.choice(WRAPPERS).format(r=value, d=degenerate(rng))


def pair(rng: random.Random) -> tuple[str, str]:
    """Return (answer, reference) that are not equal."""
    if rng.random() < 0.5:
        gold = scalar(rng)
        if rng.random() < 0.15:
            return rng.choice(NAMES) % rng.choice([*CONTROL, *WORDS]), gold
        return spoiled(rng, gold), gold
    parts, seed = [scalar(rng), scalar(rng)], rng.random()
    gold = structured(random.Random(seed), parts)
    if rng.random() < 0.15:
        return rng.choice(NAMES) % rng.choice([*CONTROL, *WORDS]), gold
    if rng.random() < 0.15:
        return spoiled(rng, parts[0]), gold
    place = rng.randrange(2)
    parts[place] = spoiled(rng, parts[place])
    answer = structured(random.Random(seed), parts)
    return answer, gold


def check(rng: random.Random) -> tuple[str, str, str, str] | None:
    """Return (law, answer, gold, details) of a broken law, None where all is well."""
    answer, gold = pair(rng)
    if answer == gold or not gold_is_readable(gold):
        return None
    clock = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = grade(f"so $\\boxed{{{answer}}}$", gold)
    spent = time.process_time() - clock
    if result.correct:
        return "accepted", answer, gold, result.reason
    if result.method == "grader-error":
        return "grader error", answer, gold, result.reason
    if result.method == "undecided":
        return "blamed on the reference", answer, gold, result.reason
    return ("slow", answer, gold, f"{spent:.2f} s") if spent > 0.2 else None


def main() -> None:
    """Check many pairs, and print the findings and counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    found = Counter[str]()
    for _ in range(options.count):
        finding = check(rng)
        if finding:
            found[finding[0]] += 1
            if found[finding[0]] <= 60:
                print(json.dumps(finding), flush=True)
    print(json.dumps({"tried": options.count, "findings": dict(found)}))


if __name__ == "__main__":
    main()
