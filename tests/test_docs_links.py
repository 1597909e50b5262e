"""The documentation's links lead somewhere, and no file names this machine or a place to download from."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = ("build", "dist", "node_modules", "__pycache__")
TEXT = {"", ".cfg", ".go", ".hcl", ".html", ".j2", ".json", ".md", ".py", ".service", ".sh", ".toml", ".txt", ".yml"}

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(?:work|root)(?![\w-])")
PINS = ("constraints*.txt", "requirements*.txt", "*.lock")


def files(pattern: str = "*") -> list[Path]:
    """The project's own files, outside hidden folders (but .ci) and build results. In a worktree ``.git`` is a file."""

    def own(path: Path) -> bool:
        folders = path.relative_to(ROOT).parts[:-1]
        return (
            path.is_file()
            and path.name != ".git"
            and not any(
                part in NOT_OURS or part.endswith(".egg-info") or (part.startswith(".") and part != ".ci")
                for part in folders
            )
        )

    return sorted(path for path in ROOT.rglob(pattern) if own(path))


def slugs(text: str) -> set[str]:
    """The anchors of a page: GitHub's, of its headings, and those written by hand."""
    found: Counter[str] = Counter()
    result = set(ANCHOR.findall(text))
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        result.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return result


def broken(page: Path) -> Iterator[str]:
    """The relative links of a page that lead nowhere, and why."""
    text = page.read_text(encoding="utf-8")
    for match in LINK.finditer(CODE.sub("", FENCE.sub("", text))):
        link = match[1] or match[2]
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path) if path else page
        if path.startswith("/"):
            yield f"{link}: is absolute"
        elif not target.exists():
            yield f"{link}: no such file"
        elif anchor and target.suffix == ".md":
            known = slugs(target.read_text(encoding="utf-8"))
            if anchor not in known:
                yield f"{link}: no such heading; there are {', '.join(sorted(known))}"


@pytest.mark.parametrize("page", files("*.md"), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert [] == list(broken(page))


def test_no_file_names_a_path_of_one_machine() -> None:
    texts = [(path, path.read_text(encoding="utf-8")) for path in files() if path.suffix in TEXT]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, text in texts
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert [] == found


def test_pins_name_no_place_to_download_from() -> None:
    pins = [path for pattern in PINS for path in files(pattern)]
    assert ROOT / "constraints.txt" in pins
    assert [] == [path for path in pins if re.search(r"https?://", path.read_text(encoding="utf-8"))]


def test_the_checks_find_what_they_are_for(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One thing\n\n# `two` Things, [linked](x)!\n\n# One thing\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#one-thing-1) [c](#here) [d](mailto:x@y) [e](other.md#two-things-linked)\n"
        "[f](none.md) [g](#there) [h](/other.md) ![i](none.png 'title')\n\n[j]: lost.md\n"
        "`[k](code.md)`\n```\n[l](code.md)\n```\n"
    )
    found = [problem.partition(":")[0] for problem in broken(page)]
    assert ["none.md", "#there", "/other.md", "none.png", "lost.md"] == found
    paths = {f"see {root}/x": bool(root) for root in ("/wo" + "rk", "/ro" + "ot")} | {"a/work/b and /rooted": False}
    assert paths == {line: bool(MACHINE_PATH.search(line)) for line in paths}
