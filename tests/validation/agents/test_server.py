"""`prismatic mcp` over standard input and output, asked by the client of the package mcp itself."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from mcp import Client, StdioServerParameters, stdio_client

from tests.support.report_readers import ROOT

COMMAND = ["-m", "validation.cli.prismatic", "mcp", "--no-cache"]


def asked(root, *calls):
    """Return the tools of a server for a folder, and its answers to some calls."""
    server = StdioServerParameters(command=sys.executable, args=[*COMMAND, "--root", str(root)], cwd=str(ROOT))

    async def ask():
        with anyio.fail_after(60):
            async with Client(stdio_client(server)) as client:
                tools = await client.list_tools()
                return tools.tools, [await client.call_tool(name, given) for name, given in calls]

    # In a thread, because the browser of other tests keeps a loop of events running in this one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, ask).result()


@pytest.mark.long
def test_a_real_client_lists_the_tools_and_asks_each():
    tools, (check, gate, query, plan) = asked(
        ROOT / "examples",
        ("check", {"runs": ["study"]}),
        ("gate", {"runs": ["study"], "claim": "awakening"}),
        ("query", {"runs": ["as-is.db"], "sql": "SELECT count(*) AS n FROM runs"}),
        ("plan", {"effect": "bottom", "true_effect": 1.2}),
    )
    assert [tool.name for tool in tools] == ["check", "gate", "query", "plan"]
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    assert all(tool.input_schema["properties"].keys() >= {"runs"} for tool in tools)
    assert check.structured_content["status"] == "refuted"
    assert gate.structured_content["answer"] == "discard"
    assert query.structured_content == {"columns": ["n"], "rows": [[1]], "notes": []}
    assert plan.structured_content["spreads"][0]["seeds"] == 8


@pytest.mark.long
def test_what_an_agent_may_not_ask_is_an_error_that_it_can_read(tmp_path):
    (tmp_path / "link.db").symlink_to(ROOT / "examples" / "as-is.db")
    run = "as-is.db"
    (tmp_path / run).write_bytes((ROOT / "examples" / run).read_bytes())
    calls = (
        ("check", {"runs": ["link.db"]}, "lies outside"),
        ("check", {"runs": ["/etc/passwd"]}, "lies outside"),
        ("check", {"runs": []}, "at least 1 item"),
        ("check", {"runs": [run], "claim": "x"}, "Input should be"),
        ("query", {"runs": [run], "sql": "DROP TABLE runs"}, "SELECT"),
        ("query", {"runs": [run], "sql": "SELECT * FROM read_text('/etc/passwd')"}, "the table function read_text"),
        ("query", {"runs": [run], "sql": "SELECT 1", "rows": 10**9}, "less than or equal to 1000"),
        ("plan", {"effect": "bottom", "true_effect": 0}, "expected a factor above 0"),
        ("write", {}, "Unknown tool"),
    )
    _, answers = asked(tmp_path, *(call[:2] for call in calls))
    for (name, _, words), answer in zip(calls, answers, strict=True):
        assert answer.is_error, name
        assert words in answer.content[0].text, answer.content[0].text


@pytest.mark.long
def test_a_root_that_is_no_folder_and_a_missing_package_end_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, *COMMAND, "--root", str(tmp_path / "absent")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "expected a folder" in done.stderr
    code = "import sys; sys.modules['mcp'] = None; from validation.cli.main import main; sys.exit(main(['mcp']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "prismatic-dynamics[mcp]"' in done.stderr
