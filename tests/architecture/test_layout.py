"""The shape of the code: files in a folder, length of functions, and a first line that names each file."""

import ast

import pytest

from tests.support.source_tree import ROOT

PACKAGES = ("prismatic", "validation", "ui")
FILES = [file for package in (*PACKAGES, "pages") for file in sorted((ROOT / package).rglob("*.py"))]
MOST_FILES, MOST_LINES = 14, 50


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_of_a_package_holds_more_files_than_one_takes_in_at_a_glance(package):
    folders = {file.parent for file in FILES if file.relative_to(ROOT).parts[0] == package}
    crowded = {folder.name: count for folder in folders if (count := len(list(folder.glob("*.py")))) > MOST_FILES}
    assert not crowded


def test_every_function_fits_a_screen():
    functions = [
        (file.relative_to(ROOT), node)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    too_long = [
        f"{file}:{node.lineno} {node.name}"
        for file, node in functions
        if node.end_lineno and node.end_lineno - node.lineno >= MOST_LINES
    ]
    assert not too_long


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_says_in_its_first_line_what_it_is(file):
    words = ast.get_docstring(ast.parse(file.read_text()))
    assert words, "a file without a docstring"
    assert not words.startswith(("What", "Whether", "Which", "Where", "Why", "How", "Who", "Every"))
