"""The folder of an agent: paths inside it are found, and all others are refused, links included."""

import pytest

from validation.agents.root import RefusedPathError, Root


@pytest.fixture
def root(tmp_path):
    inside = tmp_path / "inside"
    (inside / "runs" / "deep").mkdir(parents=True)
    (inside / "runs" / "a.db").write_text("a")
    (tmp_path / "outside.db").write_text("b")
    (tmp_path / "inside-too").mkdir()
    return Root(inside)


@pytest.mark.parametrize("name", ["runs", "runs/a.db", "./runs/../runs/a.db", "."])
def test_paths_inside_are_found_relative_to_the_folder(root, name):
    (found,) = root.sources([name])
    assert found == (root.folder / name).resolve()


def test_an_absolute_path_inside_is_one_of_the_folder(root):
    assert root.sources([str(root.folder / "runs")]) == [root.folder / "runs"]


@pytest.mark.parametrize("name", ["..", "../outside.db", "/etc/passwd", "runs/../../outside.db", "../inside-too"])
def test_paths_outside_are_refused(root, name):
    with pytest.raises(RefusedPathError, match="lies outside of"):
        root.sources([name])


@pytest.mark.parametrize("name", ["absent.db", "~/x", "s3://bucket/set", "-"])
def test_a_name_is_a_path_and_nothing_else(root, name):
    with pytest.raises(RefusedPathError, match="found nothing there"):
        root.sources([name])


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
def test_what_is_no_path_is_refused(root, name):
    with pytest.raises(RefusedPathError, match="cannot be used"):
        root.sources([name])


def test_a_link_that_leads_outside_is_refused_also_deep_in_a_folder(root, tmp_path):
    (root.folder / "runs" / "deep" / "same.db").symlink_to(root.folder / "runs" / "a.db")
    assert root.sources(["runs"])
    (root.folder / "runs" / "deep" / "other.db").symlink_to(tmp_path / "outside.db")
    for name in ("runs", "runs/deep/other.db", "."):
        with pytest.raises(RefusedPathError, match="lies outside"):
            root.sources([name])
    (root.folder / "folder").symlink_to(tmp_path)
    with pytest.raises(RefusedPathError, match="lies outside"):
        root.sources(["folder"])


@pytest.mark.parametrize("names", [[], ["x"] * 1001])
def test_no_path_and_too_many_are_refused(root, names):
    with pytest.raises(RefusedPathError, match="expected 1 to 1,000 paths"):
        root.sources(names)


def test_the_folder_must_be_there(tmp_path):
    with pytest.raises(RefusedPathError, match="expected a folder"):
        Root(tmp_path / "absent")
