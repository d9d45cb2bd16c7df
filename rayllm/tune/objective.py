"""What a sweep minimises: a metric of a validation, or an expression over metrics of domains.

In: an expression of the run file, the validation domains, perhaps the curve of a reference run. Out: a number for each
validation, lowest is best. Expressions are parsed into a small tree of their own kinds of nodes, never evaluated as
code:

    mean_bits_per_byte
    0.7 * bits_per_byte/english + 0.3 * mean(bits_per_byte/code, bits_per_byte/math)
    max(excess)

``mean``, ``max`` and ``min`` take expressions, or the name of a measure, which stands for all domains.
``excess/<domain>`` is the bits per byte above those of the reference run at as many tokens.
"""

import ast
import bisect
import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rayllm.core.errors import ConfigError, DataError
from rayllm.tune.results import Point, TrialResult

WHERE = "tune.objective"
#: Measures that a validation has for every domain.
MEASURES = ("bits_per_byte", "loss", "perplexity", "surprise_ratio")
EXCESS = "excess"
#: Metrics of a whole validation.
TOTALS = ("mean_bits_per_byte", "mean_loss")
#: How far a trial may have read beyond the end of its reference, as a share, before their comparison is refused.
OVERSHOOT = 0.05

_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_FUNCTIONS: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "min": min,
}
#: Begins the names that stand for ``measure/domain`` while an expression is read.
_PLAIN = "_metric_"
Metrics = Mapping[str, float]
Evaluate = Callable[[Metrics], float]


@dataclass(frozen=True)
class Objective:
    """An expression, ready to judge; make it with ``parse``.

    Attributes:
        expression: As the run file has it.
        uses: Names of the metrics that it reads, ``excess/<domain>`` among them.
        evaluate: The expression as a function of these.
        reference: The curve of the reference run, by rising tokens; empty until it is known.
    """

    expression: str
    uses: tuple[str, ...]
    evaluate: Evaluate
    reference: tuple[Point, ...] = ()

    @classmethod
    def parse(
        cls,
        expression: str,
        domains: Sequence[str],
        reference: Sequence[Point] = (),
        measures: Sequence[str] = (),
    ) -> "Objective":
        """Read an expression.

        Args:
            expression: As in the module's account.
            domains: Validation domains.
            reference: Curve of the reference run.
            measures: Beyond ``MEASURES``, what validations have for every domain and, as ``mean_...``, in all.

        Raises:
            ConfigError: If it is no expression of this kind, or names a metric that validations do not have.
        """
        return cls(expression, *_Parser(domains, measures).read(expression)).against(reference)

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with a reference run."""
        return any(name.startswith(f"{EXCESS}/") for name in self.uses)

    def against(self, reference: Sequence[Point]) -> "Objective":
        """The same expression, with the curve of a reference run."""
        return replace(self, reference=tuple(sorted(reference, key=lambda point: point.tokens)))

    def missing(self, metrics: Metrics) -> list[str]:
        """Metrics that it reads and a validation lacks, such as one whose loss was not finite."""
        return [name for name in map(_measured, self.uses) if name not in metrics]

    def of(self, result: TrialResult) -> float:
        """The value of a trial's last validation; infinite where it has none."""
        value = self.at(result.metrics, result.tokens)
        return math.inf if math.isnan(value) else value

    def at(self, metrics: Metrics, tokens: int) -> float:
        """The value of a validation as ``value`` gives it; NaN where that has none."""
        try:
            return self.value(metrics, tokens)
        except DataError:
            return math.nan

    def value(self, metrics: Metrics, tokens: int) -> float:
        """The value of a validation, lowest is best.

        Args:
            metrics: Of the validation.
            tokens: That the trial had read.

        Raises:
            DataError: If a metric is missing, or the reference ends before so many tokens.
        """
        if missing := self.missing(metrics):
            raise DataError(f"a validation has no finite {missing[0]}", why=f"the objective is {self.expression}")
        known = dict(metrics)
        for name in self.uses:
            if name.startswith(f"{EXCESS}/"):
                known[name] = metrics[_measured(name)] - _at(self.reference, _measured(name), tokens)
        return self.evaluate(known)


def _measured(name: str) -> str:
    """The metric of a validation behind a name: bits per byte behind an excess."""
    return f"bits_per_byte/{name.removeprefix(f'{EXCESS}/')}" if name.startswith(f"{EXCESS}/") else name


def _at(curve: Sequence[Point], metric: str, tokens: int) -> float:
    """A metric of a curve at some tokens, between its points in a line; before its first point, that point's."""
    if not curve or tokens > curve[-1].tokens * (1 + OVERSHOOT):
        ends = f"ends at {curve[-1].tokens:,} tokens" if curve else "is not known"
        raise DataError(
            f"the excess at {tokens:,} tokens has nothing to compare with",
            where="tune.reference",
            why=f"the reference run {ends}",
            fix="take a reference that was trained as long as the trials",
        )
    after = bisect.bisect_left([point.tokens for point in curve], tokens)
    if after == 0 or after == len(curve):
        return curve[min(after, len(curve) - 1)].metrics[metric]
    left, right = curve[after - 1], curve[after]
    part = (tokens - left.tokens) / (right.tokens - left.tokens)
    return left.metrics[metric] + part * (right.metrics[metric] - left.metrics[metric])


class _Parser:
    """Reads expressions over the metrics of certain domains."""

    def __init__(self, domains: Sequence[str], measures: Sequence[str]) -> None:
        self._domains = domains
        self._measures = (*MEASURES, *measures, EXCESS)
        families = [f"{measure}/{domain}" for measure in self._measures for domain in domains]
        self._known = [*TOTALS, *(f"mean_{measure}" for measure in measures), *families]
        self._uses: dict[str, None] = {}

    def read(self, expression: str) -> tuple[tuple[str, ...], Evaluate]:
        """The metrics that an expression reads, and the expression as a function."""
        if own := re.search(rf"{_PLAIN}\d+", expression):
            raise self._unknown(own[0])
        try:
            tree = ast.parse(self._with_plain_names(expression), mode="eval")
        except SyntaxError as error:
            raise self._refused(expression, "it is no expression") from error
        evaluate = self._build(tree.body, expression)
        if not self._uses:
            raise self._refused(expression, "it names no metric")
        return tuple(self._uses), evaluate

    def _with_plain_names(self, expression: str) -> str:
        """Each ``measure/domain`` as one name, since domains may hold dashes and dots, which Python would compute."""
        names = sorted((name for name in self._known if "/" in name), key=len, reverse=True)
        pattern = "|".join(rf"(?<![\w/]){re.escape(name)}(?![\w/])" for name in names)
        plain = (
            re.sub(pattern, lambda found: f"{_PLAIN}{self._known.index(found[0])}", expression) if names else expression
        )
        measures = "|".join(self._measures)
        if unknown := re.search(rf"(?<![\w/])({measures})/[^\s,()+*]*", plain):
            raise self._unknown(unknown[0])
        return plain

    def _build(self, node: ast.expr, expression: str) -> Evaluate:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            number = float(node.value)
            return lambda metrics: number
        if isinstance(node, ast.Name):
            return self._metric(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._build(node.operand, expression)
            return lambda metrics: -inner(metrics)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return self._quotient(node, expression)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            combine = _OPERATORS[type(node.op)]
            left, right = self._build(node.left, expression), self._build(node.right, expression)
            return lambda metrics: combine(left(metrics), right(metrics))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            return self._call(_FUNCTIONS[node.func.id], node, expression)
        raise self._refused(expression, f"`{self._shown(node)}` is neither a metric nor a number nor a known function")

    def _quotient(self, node: ast.BinOp, expression: str) -> Evaluate:
        divisor = node.right.value if isinstance(node.right, ast.Constant) else None
        if not isinstance(divisor, int | float) or isinstance(divisor, bool) or not divisor:
            raise self._refused(expression, f"`{self._shown(node)}` divides by what is no number, or 0")
        whole, number = self._build(node.left, expression), float(divisor)
        return lambda metrics: whole(metrics) / number

    def _shown(self, node: ast.expr) -> str:
        return re.sub(rf"{_PLAIN}(\d+)", lambda found: self._known[int(found[1])], ast.unparse(node))

    def _call(self, function: Callable[[list[float]], float], node: ast.Call, expression: str) -> Evaluate:
        parts: list[Evaluate] = []
        for argument in node.args:
            if isinstance(argument, ast.Name) and argument.id in self._measures:
                parts += [self._metric(f"{argument.id}/{domain}") for domain in self._domains]
            else:
                parts.append(self._build(argument, expression))
        if not parts or node.keywords:
            raise self._refused(expression, f"`{self._shown(node)}` needs what to take it of")
        return lambda metrics: function([part(metrics) for part in parts])

    def _metric(self, name: str) -> Evaluate:
        if name.startswith(_PLAIN):
            name = self._known[int(name.removeprefix(_PLAIN))]
        if name not in self._known:
            raise self._unknown(name)
        self._uses[name] = None
        return lambda metrics: metrics[name]

    def _unknown(self, name: str) -> ConfigError:
        close = difflib.get_close_matches(name, [*self._known, *_FUNCTIONS], n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        return ConfigError(
            f"there is no metric {name!r} to rank by", where=WHERE, fix=f"{hint}use one of {', '.join(self._known)}"
        )

    def _refused(self, expression: str, why: str) -> ConfigError:
        return ConfigError(
            f"the objective {expression!r} cannot be read",
            where=WHERE,
            why=why,
            fix="use metrics, numbers, + - *, / by a number, and mean(...), max(...), min(...)",
        )
