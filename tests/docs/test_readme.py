"""The README: every block runs, and the five lines print what it says."""

import re

from tests.docs.snippets import ROOT, PageRun, shell_commands

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_blocks_of_the_readme_run(workshop):
    """The first lines that a newcomer copies must work, and print what they promise."""
    page = PageRun()
    page.run("README.md")
    assert page.ran == 4 and page.used == {"pip install"}


def test_the_readme_begins_with_a_sentence_a_picture_and_five_lines():
    beginning = README.split("## ")[0]
    assert beginning.index("?") < beginning.index("![") < beginning.index("```python") < beginning.index("```text")
    lines = re.search(r"```python\n(.*?)```", beginning, re.DOTALL)[1].strip().splitlines()
    assert len([line for line in lines if line and not line.startswith("from ")]) == 5


def test_own_photos_need_three_commands():
    section = README.split("## Your own photos")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(shell_commands(block)) == 3 and "--model auto" in block


def test_shell_commands_are_split_as_a_shell_does():
    text = "d2vpr add a 'b c' && d2vpr info a   # then\nd2vpr x \\\n  --y > out.txt; make z | cat\n"
    assert shell_commands(text) == [
        ["d2vpr", "add", "a", "b c"],
        ["d2vpr", "info", "a"],
        ["d2vpr", "x", "--y"],
        ["make", "z"],
        ["cat"],
    ]
