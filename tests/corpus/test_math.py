import ast
import operator
import re
from collections import Counter
from fractions import Fraction

from rayllm.corpus.builtin.math import FAMILIES, generate_problem
from rayllm.corpus.documents import Split

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
#: ``12 * 3 = 36`` where neither side goes on in letters, as in ``3x = 12`` or ``2 h``.
EQUATION = re.compile(r"(?<![\w.)])([-(\d][\d\s.()*/+-]*?) = (-?\d+(?:\.\d+)?(?:/\d+)?)(?![\w(]|\.\d| [-+*/])")
SAMPLES = 3000


def evaluate(expression: str) -> Fraction:
    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant():
                return Fraction(ast.get_source_segment(expression, node) or "")
            case ast.UnaryOp(op=ast.USub()):
                return -value(node.operand)
            case ast.BinOp():
                return Fraction(OPERATORS[type(node.op)](value(node.left), value(node.right)))
        raise AssertionError(expression)

    return value(ast.parse(expression, mode="eval").body)


def test_every_answer_is_right_by_another_way() -> None:
    for split in ("train", "validation"):
        for number in range(SAMPLES):
            problem = generate_problem(5, split, number)
            assert problem.checks, problem.document
            for expression, printed in problem.checks:
                assert evaluate(expression) == Fraction(printed), problem.document
                assert re.search(rf"(?<![\d.]){re.escape(printed)}(?![\d])", problem.answer), problem.document


def test_every_equation_in_a_solution_holds() -> None:
    checked = 0
    for number in range(SAMPLES):
        problem = generate_problem(6, "train", number)
        for step in problem.steps:
            for match in EQUATION.finditer(step):
                if not step[: match.start()].rstrip(" +-").endswith("x"):  # not the end of ``2x + 21 = 51``
                    assert evaluate(match[1].strip()) == Fraction(match[2]), problem.document
                    checked += 1
    assert checked > 2 * SAMPLES


def test_validation_asks_in_words_that_training_does_not_use() -> None:
    train = {template for family in FAMILIES for template in family.train}
    validation = {template for family in FAMILIES for template in family.validation}
    assert not train & validation
    assert all(family.train and family.validation for family in FAMILIES)
    assert len(train) > 80
    asked: dict[Split, set[str]] = {
        split: {generate_problem(1, split, number).question for number in range(SAMPLES)}
        for split in ("train", "validation")
    }
    assert not asked["train"] & asked["validation"]


def test_a_problem_depends_on_seed_split_and_number_only() -> None:
    straight = [generate_problem(1, "train", number).document for number in range(50)]
    assert [generate_problem(1, "train", number).document for number in reversed(range(50))][::-1] == straight
    assert generate_problem(2, "train", 0).document != straight[0]


def test_every_template_occurs_and_documents_seldom_repeat() -> None:
    problems = [generate_problem(1, "train", number) for number in range(10_000)]
    assert len({problem.template for problem in problems}) == sum(len(family.train) for family in FAMILIES)
    repeated = len(problems) - len(Counter(problem.document for problem in problems))
    assert repeated < 500
    assert not any("{" in problem.document or "--" in problem.document for problem in problems)
