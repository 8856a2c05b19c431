"""Decide whether two read answers are equal: True, False, or None where neither could be shown.

The rules, in the order a reader would ask for them:
- an equality needs a witness (`witness`): every "equal" of two quantities passes `Equivalence._equal`;
- **numbers** exactly; a decimal of ROUNDED_DIGITS or more significant digits may be the rounding of a non-integer;
- **percent** ``p%`` is p or p/100; **degrees** may be missing, ``180°`` is π; **units** by `units`;
- **expressions** by normal form (`algebra`) or, where that is too large, modulo primes (`exact`), else by a point where
  they differ, else by the worker pool;
- **names** (``x =``, ``f(x) =``, ``AB =``) before a value are harmless; every member of a chain must be right;
- **equations** up to a constant factor, **inequalities** as intervals, **tuples** with order and brackets,
  **lists, sets and unions** without order, **matrices** entry by entry, **words** by `wording`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from selfcorrect.grading import wording
from selfcorrect.grading.maths import algebra, exact, numeric, shapes
from selfcorrect.grading.maths.limits import (
    COMPARISON_STEPS,
    MAX_FORM_STEPS,
    MAX_QUESTIONS,
    TooLarge,
    Unreadable,
    budget,
    spend,
    steps_left,
)
from selfcorrect.grading.maths.tree import Node, num, sym
from selfcorrect.grading.maths.units import conversion, is_radian, sign_clashes
from selfcorrect.grading.maths.witness import Witness, doubtful_part, words_for
from selfcorrect.grading.rules import Rules

if TYPE_CHECKING:
    from selfcorrect.grading.workers.pool import Decision

ROUNDED_DIGITS = 9
"""A decimal with this many significant digits equals the non-integer constant whose rounding it is."""
_LONG_LIST = 8


class Slow(Protocol):
    """What is asked outside this process, about scalar trees."""

    def compare(self, response: Node, gold: Node, positive: bool) -> Decision:
        """Say whether two trees are equal."""
        ...

    def has_value(self, tree: Node, positive: bool) -> bool:
        """Say whether a tree alone has a finite value."""
        ...


@dataclass(slots=True)
class Equivalence:
    """Compares trees under one data set's rules.

    Afterwards ``method`` names the rule that decided and ``how`` says in words what it found; where nothing did,
    ``limit`` says what stood in the way and ``blame`` which side (``response``, ``reference``, or empty: unknown).
    """

    rules: Rules
    slow: Slow | None = None
    tolerance: Fraction | None = None
    cached: bool = True
    method: str = "structure"
    how: str = ""
    limit: str = ""
    blame: str = ""
    questions: int = 0
    open: bool = False

    def same(self, response: Node, gold: Node) -> bool | None:
        """Return whether the two answers are equal; None where it could not be decided."""
        if response == gold:
            self._by("identical")
            return True
        spend(1)
        if gold.kind == "text" or response.kind == "text":
            words_r, words_g = _words(response), _words(gold)
            self._by("words")
            return words_r is not None and words_g is not None and wording.same_words(words_r, words_g)
        equation = self._equations(response, gold)
        if not isinstance(equation, NotEquations):
            return equation
        if response.kind == gold.kind == "rel":
            if response.value == gold.value == "equiv mod":
                return self._congruences(response, gold)
            if self._inequalities(response, gold):
                return True
            if self._variables(response, gold) is False:
                return False
        if _is_nested(response) or _is_nested(gold):
            self._by("structure")
            return self._nested_sets(response, gold)
        response, gold = shapes.settle(response), shapes.settle(gold)
        if response == gold:
            self._by("identical")
            return True
        if _is_scalar(response) and _is_scalar(gold):
            return self.scalars(shapes.ratio_value(response), shapes.ratio_value(gold))
        return self._collections(response, gold)

    def reason(self, *, equal: bool) -> str:
        """Return in words what decided."""
        return self.how or words_for(self.method, equal=equal)

    def _by(self, method: str, how: str = "") -> None:
        self.method, self.how = method, how

    # -- equations ---------------------------------------------------------------------------------------

    def _equations(self, response: Node, gold: Node) -> bool | NotEquations | None:
        stated_r, stated_g = shapes.equation(_exact_part(response)), shapes.equation(_exact_part(gold))
        if stated_r is None and stated_g is None:
            return NOT_EQUATIONS
        if stated_r and stated_g:
            return self._two_equations(response, gold, stated_r, stated_g)
        if stated_g:
            name, values = stated_g
            if name is None or (gold.kind == "rel" and len(values) > 1):
                self._by("equation")
                return False if name is None else self._all(values, lambda value: self.same(response, value))
            if isinstance(name, Node) and name.kind in ("tuple", "list") and response.kind == "list":
                response = Node("tuple", "()", shapes.in_order_of(name.args, response.args))
            return self.same(response, values[0])
        assert stated_r is not None
        name, values = stated_r
        if name is None and not _is_scalar(gold):
            self._by("equation")
            return False
        if name is not None and name.kind in ("tuple", "list"):
            values = [shapes.in_natural_order(name.args, value) for value in values]
        return self._last_of_chain(values, gold) if name else self._all(values, lambda value: self.same(value, gold))

    def _all(self, values: list[Node], judge: Callable[[Node], bool | None]) -> bool | None:
        """True where there are values and every one is right: what compares nothing is equal to nothing."""
        if self.tolerance is not None and not self._one_value(values):
            self._by("several values")
            return False
        undecided = False
        for value in values:
            verdict = judge(value)
            if verdict is False:
                return False
            undecided |= verdict is None
        return None if undecided else bool(values)

    def _last_of_chain(self, values: list[Node], gold: Node) -> bool | None:
        """Compare what a chain gives its name: of ``x = 3 + 4 = 7`` the 7. What comes before must have a value."""
        *steps, last = values
        if not steps or not all(map(_is_scalar, values)) or self.tolerance is not None:
            return self._all(values, lambda value: self.same(value, gold))
        verdict = self.same(last, gold)
        if not verdict:
            return verdict
        method, how = self.method, self.how
        try:
            for step in steps:  # a division by zero shows here; what algebra does not see, at the gate
                self._form(step)
        except Unreadable:
            self._by("a member of the chain without a value")
            return False
        verdict = self._equal(steps[0] if len(steps) == 1 else Node("add", "", tuple(steps)), gold)
        self._by(method, how)
        return verdict

    def _one_value(self, values: list[Node]) -> bool:
        """True where all say the same: a tolerance is for one value, and makes no answer of ``49 or 50``."""
        exact_part = self._exact()
        return all(exact_part.same(value, values[0]) or _is_rounding(value, values) for value in values[1:])

    def _exact(self) -> Equivalence:
        """Return a comparison by the same rules without the tolerance."""
        return replace(self, tolerance=None, method="structure", how="", limit="", blame="")

    def _two_equations(
        self,
        response: Node,
        gold: Node,
        stated_r: tuple[Node | None, list[Node]],
        stated_g: tuple[Node | None, list[Node]],
    ) -> bool | None:
        (name_r, values_r), (name_g, values_g) = stated_r, stated_g
        named = name_r is not None and name_g is not None
        if named and (name_r == name_g or _function_and_letter(name_r, name_g)):
            verdict = self._last_of_chain(values_r, values_g[-1])
            if verdict:
                return True
        if len(response.args) != 2 or len(gold.args) != 2:
            return False
        try:
            left, right = (
                algebra.add(self._form(node.args[0]), self._form(node.args[1]), -1) for node in (response, gold)
            )
            verdict = algebra.proportional(left, right)
        except TooLarge as reached:
            self.limit = str(reached)
            verdict = None
        except Unreadable:
            return False if not named else self.same(values_r[-1], values_g[-1]) and name_r == name_g
        self._by("equation")
        differences = [Node("add", "", (n.args[0], Node("neg", "", (n.args[1],)))) for n in (response, gold)]
        if verdict is None:
            return self._up_to_sign(*differences)
        return self._equal(*differences) if verdict else False

    def _up_to_sign(self, left: Node, right: Node) -> bool | None:
        """Compare two equations up to sign where normal forms prove nothing; the pool must confirm agreement."""
        verdicts = []
        for other in (right, Node("neg", "", (right,))):
            verdicts.append(numeric.differ(left, other, positive=self.rules.positive_symbols))
            if verdicts[-1] is False:
                return self._ask(left, other)
        return False if verdicts == [True, True] else None

    def _congruences(self, response: Node, gold: Node) -> bool | None:
        """Compare ``x = a (mod m)``: the same modulus, residues that differ by a multiple of it."""
        if response.args[0] != gold.args[0]:
            return False
        values = [_plain_number(arg) for arg in (*response.args[1:], *gold.args[1:])]
        if None in values or not values[3]:
            return self._in_order(response.args[1:], gold.args[1:])
        self._by("congruence")
        residue_r, modulus_r, residue_g, modulus_g = (value or Fraction(0) for value in values)
        return modulus_r == modulus_g and ((residue_r - residue_g) / modulus_g).denominator == 1

    # -- inequalities ------------------------------------------------------------------------------------

    def _inequalities(self, response: Node, gold: Node) -> bool | None:
        """Compare two relations that are no equations; None to go on with their interval forms."""
        if len(response.args) != 2 or len(gold.args) != 2 or not {response.value[0], gold.value[0]} <= {"<", ">"}:
            return None
        try:
            sides = []
            for node in (response, gold):
                left, right = (self._form(arg) for arg in node.args)
                sides.append(algebra.add(left, right, -1))
        except (TooLarge, Unreadable):
            return None
        self._by("inequality")
        flipped = response.value[0] != gold.value[0]
        if ("=" in response.value) != ("=" in gold.value):
            return False
        other = algebra.add(algebra.constant(0), sides[1], -1) if flipped else sides[1]
        if not algebra.positively_proportional(sides[0], other):
            return False
        return self._equal(*(Node("add", "", n.args) for n in (response, gold)))

    def _variables(self, response: Node, gold: Node) -> bool | None:
        """False for intervals of different variables; None to go on with their interval forms."""
        as_interval = [shapes.interval(node) for node in (response, gold)]
        if all(as_interval):
            (variable_r, _), (variable_g, _) = as_interval[0], as_interval[1]  # type: ignore[misc]
            return None if variable_r == variable_g or variable_g.kind == "apply" else False
        return None

    # -- collections -------------------------------------------------------------------------------------

    def _collections(self, response: Node, gold: Node) -> bool | None:
        kinds = response.kind, gold.kind
        if kinds == ("matrix", "matrix"):
            if response.value != gold.value:
                return False
            return self._in_order(response.args, gold.args)
        if "matrix" in kinds:
            return self._vectors(response, gold)
        if "tuple" in kinds and kinds != ("tuple", "tuple"):
            response, gold = shapes.by_their_names(response), shapes.by_their_names(gold)
        if kinds == ("tuple", "tuple"):
            if not (_has_names(response) and _has_names(gold)):
                response, gold = _plain_tuple(response), _plain_tuple(gold)
            if len(response.args) != len(gold.args):
                return False
            if len(gold.args) == 2 and response.value != gold.value:
                return False
            return self._in_order(response.args, gold.args)
        if kinds == ("ratio", "ratio"):
            return self._ratios(response, gold)
        if "union" in kinds:
            return self._unions(response, gold)
        if kinds == ("tuple", "list") or kinds == ("list", "tuple"):
            plain = response if response.kind == "tuple" else gold
            if plain.value != "()" or len(response.args) != len(gold.args):
                return False
            return self._in_order(response.args, gold.args)
        many = ("list", "set")
        if response.kind in many and gold.kind in many:
            return self._without_order(response.args, gold.args)
        if response.kind == "list" or (response.kind in many and len(response.args) == 1):
            return self._all(list(response.args), lambda item: self.same(item, gold))
        if gold.kind in many and len(gold.args) == 1:
            return self.same(response, gold.args[0])
        if kinds == ("inter", "inter") or kinds == ("minus", "minus"):
            return self._in_order(response.args, gold.args) if len(response.args) == len(gold.args) else False
        if response.kind == gold.kind == "rel":
            return response.value == gold.value and self._in_order(response.args, gold.args)
        return False

    def _nested_sets(self, response: Node, gold: Node) -> bool | None:
        """Compare sets of sets: there a set is equal to a set only, and ``{∅}`` is not ∅."""
        if not _is_set(response) or not _is_set(gold):
            return False
        if len(response.args) != len(gold.args):
            return False
        rest = list(response.args)
        undecided = False
        for wanted in gold.args:
            verdicts = [self._members(candidate, wanted) for candidate in rest]
            if True in verdicts:
                rest.pop(verdicts.index(True))
            elif None in verdicts:
                undecided = True
                rest.pop(verdicts.index(None))
            else:
                return False
        return None if undecided else True

    def _members(self, response: Node, gold: Node) -> bool | None:
        if _is_set(response) != _is_set(gold):
            return False
        if _is_nested(response) or _is_nested(gold) or (_is_set(gold) and not (response.args and gold.args)):
            return self._nested_sets(response, gold)
        return self.same(response, gold)

    def _in_order(self, left: tuple[Node, ...], right: tuple[Node, ...]) -> bool | None:
        if len(left) != len(right) or not left:
            return False
        undecided = False
        for one, other in zip(left, right, strict=True):
            verdict = self.same(one, other)
            if verdict is False:
                return False
            undecided |= verdict is None
        return None if undecided else True

    def _without_order(self, left: tuple[Node, ...], right: tuple[Node, ...]) -> bool | None:
        """Match each gold item with one response item; a response item left over must repeat another.

        Equality is transitive, so the first match will do.
        """
        if len(left) < len(right) or not right:
            return False
        rest, wanted_items, matched = self._without_equal_forms(left, right)
        chosen: list[Node] = []
        undecided = False
        for wanted in wanted_items:
            place = unknown = -1
            for index, candidate in enumerate(rest):
                verdict = self.same(candidate, wanted)
                if verdict:
                    place = index
                    break
                if verdict is None and unknown < 0:
                    unknown = index
            if place < 0:
                if unknown < 0:
                    return False
                undecided = True
                place = unknown
            chosen.append(rest.pop(place))
        exact_part = self if self.tolerance is None else self._exact()
        for repeated in rest:
            verdict = exact_part._any(repeated, [*chosen, *matched])
            if verdict is False:
                return False
            undecided |= verdict is None
        return None if undecided else True

    def _without_equal_forms(
        self, left: tuple[Node, ...], right: tuple[Node, ...]
    ) -> tuple[list[Node], list[Node], list[Node]]:
        """Pair off quantities of the same normal form; returns what is left of both, and the paired of the right.

        So long lists need no comparison of each with each.
        """
        if len(left) < _LONG_LIST:
            return list(left), list(right), []
        places: dict[str, list[int]] = {}
        for place, node in enumerate(left):
            if (form := self._key(node)) is not None:
                places.setdefault(form, []).append(place)
        taken: set[int] = set()
        wanted: list[Node] = []
        matched: list[Node] = []
        for node in right:
            form = self._key(node)
            if form is not None and places.get(form) and self.same(left[places[form][-1]], node):
                taken.add(places[form].pop())
                matched.append(node)
            else:
                wanted.append(node)
        return [node for place, node in enumerate(left) if place not in taken], wanted, matched

    def _key(self, node: Node) -> str | None:
        try:
            return algebra.key(self._form(node)) if _is_scalar(node) else None
        except (TooLarge, Unreadable):
            return None

    def _any(self, response: Node, golds: list[Node]) -> bool | None:
        undecided = False
        for gold in golds:
            verdict = self.same(response, gold)
            if verdict:
                return True
            undecided |= verdict is None
        return None if undecided else False

    def _vectors(self, response: Node, gold: Node) -> bool | None:
        """A column or row against a tuple of the same entries."""
        matrix, other = (response, gold) if response.kind == "matrix" else (gold, response)
        rows, columns = (int(part) for part in matrix.value.split("x"))
        if other.kind == "tuple" and other.value == "()" and 1 in (rows, columns):
            return self._in_order(response.args, gold.args)
        if rows == columns == 1 and _is_scalar(other):
            return self.same(matrix.args[0], other) if matrix is response else self.same(other, matrix.args[0])
        return False

    def _ratios(self, response: Node, gold: Node) -> bool | None:
        if len(response.args) != len(gold.args):
            return False
        first_r, first_g = response.args[0], gold.args[0]
        for one, other in zip(response.args[1:], gold.args[1:], strict=True):
            verdict = self.scalars(Node("mul", "", (one, first_g)), Node("mul", "", (other, first_r)))
            if verdict is not True:
                return verdict
        return True

    def _unions(self, response: Node, gold: Node) -> bool | None:
        def parts(node: Node) -> tuple[Node, ...]:
            flat: list[Node] = []
            for arg in node.args if node.kind in ("union", "list") else (node,):
                settled = shapes.settle(arg)
                if settled.kind == "union":
                    flat.extend(parts(settled))
                elif settled.kind == "set":
                    flat.extend(Node("set", "", (item,)) for item in settled.args)
                else:
                    flat.append(settled)
            return tuple(flat)

        flat_r, flat_g = parts(response), parts(gold)
        if self._without_order(flat_r, flat_g):
            return True
        verdict = self._without_order(shapes.merged(flat_r), shapes.merged(flat_g))
        if not verdict:
            return verdict
        ends = [end for part in flat_r for end in part.args if not _infinite(end)]
        return self._equal(Node("add", "", tuple(ends)), gold) if ends else True

    # -- scalars -----------------------------------------------------------------------------------------

    def scalars(self, response: Node, gold: Node) -> bool | None:
        """Compare two quantities, their percent, degree and unit signs by rule."""
        (value_r, mark_r, unit_r), (value_g, mark_g, unit_g) = _quantity(response), _quantity(gold)
        if value_g.kind == "base" or value_r.kind == "base":
            return self._bases(value_r, value_g)
        if mark_r and mark_g and mark_r != mark_g:
            self._by("unit")
            return False
        if (mark_r and unit_g and sign_clashes(mark_r, unit_g)) or (mark_g and unit_r and sign_clashes(mark_g, unit_r)):
            self._by("unit")
            return False
        in_radians = (mark_r == "deg" and is_radian(unit_g)) or (mark_g == "deg" and is_radian(unit_r))
        if unit_r and unit_g:
            factor = conversion(unit_r, unit_g)
            if factor is None:
                self._by("unit")
                return False
            if factor != 1:
                scale = Node("div", "", (num(factor.numerator), num(factor.denominator)))
                value_r = Node("mul", "", (scale, value_r))
        infinite_r, infinite_g = _infinite(value_r), _infinite(value_g)
        if infinite_r or infinite_g:
            self._by("infinity")
            return infinite_r == infinite_g
        if value_r.kind == "sym" and value_r.value in shapes.CONSTANTS - {"pi", "e", "i"}:
            return value_r == value_g
        verdict = False if in_radians else self._values(value_r, value_g)
        if verdict is False and (mark_r == "pct") != (mark_g == "pct"):
            hundredth = [Node("pct", "", (v,)) if m == "pct" else v for v, m in ((value_r, mark_r), (value_g, mark_g))]
            verdict = self._values(*hundredth)
        if verdict is False and (mark_r == "deg") != (mark_g == "deg"):
            radians = [Node("deg", "", (v,)) if m == "deg" else v for v, m in ((value_r, mark_r), (value_g, mark_g))]
            verdict = self._values(*radians)
        return verdict

    def _bases(self, response: Node, gold: Node) -> bool | None:
        """Digits in a stated base: the same base is asked for; a plain gold is compared by value."""
        self._by("base")
        try:
            if gold.kind == "base":
                if response.kind != "base" or response.args != gold.args:
                    return False
                return algebra.based_number(response) == algebra.based_number(gold) and self._equal(response, gold)
            return self._values(num(int(algebra.based_number(response))), gold)
        except Unreadable:
            return False

    def _values(self, response: Node, gold: Node) -> bool | None:
        plain_r, plain_g = _plain_number(response), _plain_number(gold)
        if plain_r is not None and plain_g is not None:
            self._by("number")
            return self._equal(response, gold) if plain_r == plain_g else self._rounded(response, gold)
        spend(COMPARISON_STEPS)
        method, verdict = self._by_algebra(response, gold)
        if verdict is None and not method:
            method, verdict = "modular", exact.same(response, gold)
        if verdict is None and numeric.differ(response, gold, positive=self.rules.positive_symbols):
            method, verdict = "a point where they differ", False
        if verdict is None:
            verdict = self._ask(response, gold)
        else:
            self._by(method)
            verdict = self._equal(response, gold) if verdict else False
        return self._rounded(response, gold) if verdict is False else verdict

    def _by_algebra(self, response: Node, gold: Node) -> tuple[str, bool | None]:
        """Compare normal forms; the method is empty where one is too large."""
        try:
            return "normal form", algebra.compare(self._form(response), self._form(gold))
        except TooLarge as reached:
            self.limit = str(reached)
        except Unreadable as reason:
            self.limit = str(reason)
            return "normal form", False
        return "", None

    def _equal(self, response: Node, gold: Node) -> bool | None:
        """The one gate for "equal": the rule that found it is a `Witness`, and the response's parts must all exist."""
        Witness(self.method, self.reason(equal=True))
        doubtful = doubtful_part(response, gold)
        if doubtful is None:
            return True
        if self.slow is None or self.open:
            return None
        if self.slow.has_value(doubtful, self.rules.positive_symbols):
            return True
        self._left_open("a part of it has no finite value that could be found", "response")
        return None

    def _form(self, node: Node) -> algebra.Quotient:
        work_out = _cached_form if self.cached else _normal_form
        form, steps = work_out(node, self.rules.positive_symbols)
        spend(steps)
        if isinstance(form, Exception):
            raise type(form)(*form.args)  # a remembered exception would gather the frames of everybody who raises it
        return form

    def _ask(self, response: Node, gold: Node) -> bool | None:
        """Ask a worker. The first question that stays open is the last: what follows could not make it CORRECT."""
        if self.slow is None or self.open:
            return None
        self.questions += 1
        if self.questions > MAX_QUESTIONS:
            self._left_open("many open questions", "response")
            return None
        verdict, how, blame = self.slow.compare(response, gold, self.rules.positive_symbols)
        if verdict is None:
            self._left_open(how, blame)
            return None
        self._by("SymPy" if "SymPy" in how else "points", f"{'equal' if verdict else 'different'} {how}")
        return verdict

    def can_be_evaluated(self, answer: Node) -> bool:
        """True where every quantity in an answer has, alone and within the limits, a value: then it is not to blame."""
        if answer.kind in ("sym", "text") or _infinite(answer):
            return True
        if not _is_scalar(answer):
            return all(self.can_be_evaluated(part) for part in answer.args)
        try:
            self._form(answer)
            if doubtful_part(answer, answer) is None:
                return True
        except (TooLarge, Unreadable):
            if exact.same(answer, answer):
                return True
        if numeric.has_value(answer):
            return True
        return self.slow is not None and self.slow.has_value(answer, self.rules.positive_symbols)

    def _left_open(self, why: str, blame: str) -> None:
        self.open, self.limit, self.blame = True, why, blame

    def _rounded(self, response: Node, gold: Node) -> bool | None:
        """The stated tolerance: see ROUNDED_DIGITS, `Rules.round_to_gold` and the caller's ``tolerance``."""
        if self.tolerance is not None:
            values = [_plain_number(node) or numeric.real_value(node) for node in (response, gold)]
            if None not in values and abs(Fraction(values[0]) - Fraction(values[1])) <= self.tolerance:  # type: ignore[arg-type]
                self._by("stated tolerance")
                return self._equal(response, gold)
        decimal_r, decimal_g = _decimal(response), _decimal(gold)
        if decimal_r is None and decimal_g is None:
            return False
        if decimal_g and decimal_r and self.rules.round_to_gold:
            (value_r, _, digits_r), (value_g, unit_g, digits_g) = decimal_r, decimal_g
            if digits_r > digits_g >= 2 and abs(value_r - value_g) * 2 <= unit_g:
                self._by("rounds to the gold")
                return self._equal(response, gold)
        if decimal_r and decimal_g:
            return False
        (value, unit, digits), other = (decimal_r, gold) if decimal_r else (decimal_g, response)  # type: ignore[misc]
        if digits < ROUNDED_DIGITS:
            return False
        number = _plain_number(other)
        if number is None:
            approximate = numeric.real_value(other)
            if approximate is None or digits > 15:
                return False
            number = Fraction(approximate)
        if number.denominator == 1 or abs(number - value) > unit:
            return False
        self._by("rounded decimal")
        return self._equal(response, gold)


class NotEquations:
    """The type of `NOT_EQUATIONS`."""


NOT_EQUATIONS = NotEquations()


def _normal_form(node: Node, positive: bool) -> tuple[algebra.Quotient | TooLarge | Unreadable, int]:
    """Return a normal form, or what stood in its way, and the steps that it took."""
    with budget(MAX_FORM_STEPS):
        try:
            form = algebra.normal_form(node, positive=positive)
        except (TooLarge, Unreadable) as failure:
            return failure.with_traceback(None), MAX_FORM_STEPS - max(0, int(steps_left()))
        return form, MAX_FORM_STEPS - int(steps_left())


@lru_cache(maxsize=8192)
def _cached_form(node: Node, positive: bool) -> tuple[algebra.Quotient | TooLarge | Unreadable, int]:
    return _normal_form(node, positive)


def _is_scalar(node: Node) -> bool:
    return node.kind not in ("tuple", "set", "list", "union", "inter", "minus", "rel", "matrix", "text") and not (
        node.kind == "ratio" and len(node.args) != 2
    )


def _is_set(node: Node) -> bool:
    return node.kind == "set" or node == sym("EMPTY")


def _is_nested(node: Node) -> bool:
    """True for a set that has a set among its elements."""
    return node.kind == "set" and any(map(_is_set, node.args))


def _has_names(node: Node) -> bool:
    return any(arg.kind == "rel" for arg in node.args)


def _plain_tuple(node: Node) -> Node:
    """Return a tuple of equations as the tuple of its values, its brackets aside; other tuples as they are."""
    return shapes.by_their_names(node) if _has_names(node) else node


def _words(node: Node) -> str | None:
    """Return the words of a text, None for what is no words; a bare word was read as a product of letters."""
    if node.kind == "mul" and all(arg.kind == "sym" for arg in node.args):
        return "".join(arg.value for arg in node.args)
    return node.value if node.kind in ("text", "sym") else None


def _exact_part(node: Node) -> Node:
    """Cut a chain at its first approximation sign."""
    if node.kind == "rel" and "~" in node.value.split():
        cut = node.value.split().index("~")
        if cut == 0 and shapes.is_name(node.args[0]):
            return Node("rel", node.value.replace("~", "="), node.args)
        return Node("rel", " ".join(node.value.split()[:cut]), node.args[: cut + 1]) if cut else node.args[0]
    return node


def _function_and_letter(left: Node | None, right: Node | None) -> bool:
    """True for ``f(x)`` against ``y``: two ways to name the same dependent value."""
    if left is None or right is None:
        return False
    function, letter = (left, right) if left.kind == "apply" else (right, left)
    return function.kind == "apply" and letter == sym("y") and sym("y") not in function.args


def _quantity(node: Node) -> tuple[Node, str, str]:
    """Return (value, ``pct``/``deg``/nothing, unit text) of a quantity, its signs taken off."""
    mark = unit = ""
    for _ in range(6):
        if node.kind in ("pct", "deg"):
            mark, node = node.kind, node.args[0]
        elif node.kind == "unit":
            unit, node = node.value, node.args[0]
        elif node.kind in ("neg", "mul") and node.args[-1].kind in ("pct", "deg", "unit"):
            last = node.args[-1]
            if last.kind == "unit":
                unit = last.value
            else:
                mark = last.kind
            node = node._replace(args=(*node.args[:-1], last.args[0]))
        else:
            break
    return node, mark, unit


def _infinite(node: Node) -> int:
    if node.kind == "neg":
        return -_infinite(node.args[0])
    return 1 if node == sym("oo") else 0


def _plain_number(node: Node) -> Fraction | None:
    """Return the value of a literal, a signed literal or a fraction of literals, else None."""
    try:
        if node.kind == "num":
            return algebra.number(node.value)
        if node.kind == "neg":
            inner = _plain_number(node.args[0])
            return None if inner is None else -inner
        if node.kind == "div":
            top, bottom = _plain_number(node.args[0]), _plain_number(node.args[1])
            return top / bottom if top is not None and bottom else None
    except TooLarge:
        return None
    return None


def _is_rounding(value: Node, others: list[Node]) -> bool:
    """True for a decimal within one unit of its last place of another value: ``148/3 = 49.33``."""
    decimal = _decimal(value)
    reals = [numeric.real_value(other) for other in others if other is not value]
    return decimal is not None and any(
        real is not None and abs(Fraction(real) - decimal[0]) <= decimal[1] for real in reals
    )


def _decimal(node: Node) -> tuple[Fraction, Fraction, int] | None:
    """Return (value, unit of the last place, significant digits) of a decimal or scientific literal."""
    if node.kind == "neg":
        inner = _decimal(node.args[0])
        return (-inner[0], inner[1], inner[2]) if inner else None
    shift = Fraction(1)
    if node.kind == "mul" and len(node.args) == 2 and node.args[1].kind == "pow":
        power = node.args[1]
        exponent = _plain_number(power.args[1])
        if power.args[0] != num("10") or exponent is None or exponent.denominator != 1 or abs(exponent) > 400:
            return None
        shift = Fraction(10) ** exponent.numerator
        node = node.args[0]
        if node.kind == "neg":
            inner = _decimal(node.args[0])
            return (-inner[0] * shift, inner[1] * shift, inner[2]) if inner else None
    if node.kind != "num" or ("." not in node.value and "e" not in node.value.lower() and shift == 1):
        return None
    try:
        value = algebra.number(node.value)
    except TooLarge:
        return None
    mantissa, _, exponent_text = node.value.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    unit = Fraction(10) ** ((int(exponent_text) if exponent_text else 0) - decimals)
    return value * shift, unit * shift, len(mantissa.replace(".", "").lstrip("0"))
