"""Small files, small functions, and a first line that says what a module is for."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

from tests.house.tree import CODE, name, parse, python_files

#: A file holds one noun, and a noun rarely needs more.
MAX_FILE_LINES = 600
MAX_FUNCTION_CODE_LINES = 50

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: no blank lines, comments or docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def function_sizes(path: Path) -> list[tuple[str, int, int]]:
    """(name, first line, code lines) of each function of a file."""
    lines = code_lines(path.read_text(encoding="utf-8"))
    return [
        (node.name, node.lineno, sum(node.lineno <= line <= (node.end_lineno or 0) for line in lines))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_what_counts_as_code() -> None:
    source = 'def f(\n    a,\n):\n    """Doc.\n\n    More.\n    """\n    # why\n\n    return """x\ny"""\n'
    assert code_lines(source) == {1, 2, 3, 10, 11}


def test_no_file_is_too_long() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*CODE, "tests")}
    wrong = [f"{name(path)}: {lines} lines" for path, lines in sizes.items() if lines > MAX_FILE_LINES]
    assert not wrong, f"no file over {MAX_FILE_LINES} lines:\n" + "\n".join(wrong)


def test_no_function_is_too_long() -> None:
    wrong = [
        f"{name(path)}:{line}: {function} has {count} lines of code"
        for path in python_files(*CODE)
        for function, line, count in function_sizes(path)
        if count > MAX_FUNCTION_CODE_LINES
    ]
    assert not wrong, f"no function over {MAX_FUNCTION_CODE_LINES} lines of code:\n" + "\n".join(wrong)


def test_every_module_begins_with_a_sentence_about_it() -> None:
    wrong = []
    for path in python_files(*CODE):
        lines = path.read_text(encoding="utf-8").splitlines()
        first_line = (ast.get_docstring(parse(path), clean=False) or "").split("\n")[0].strip()
        if not lines or not lines[0].startswith('"""') or not first_line.endswith((".", ":", "?", ")")):
            wrong.append(f"{name(path)}: {lines[0] if lines else 'empty'}")
    assert not wrong, "the first line of a module is a docstring of one sentence:\n" + "\n".join(wrong)
