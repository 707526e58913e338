"""The pages say nothing that is not there: tests, functions, links, files, tags and codes they name exist."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from client import errors as client_errors
from cluster import relay_config
from serve_apps import refusals

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
THREATS = [DOCS / "THREAT_MODEL.md", *sorted((DOCS / "threats").glob("*.md"))]
PACKAGES = ("attestation", "billing", "chrysalis", "client", "cluster", "contracts", "enclave", "serve_apps")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
IDS = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def spans(page: Path) -> list[str]:
    return CODE.findall(prose(page))


def rows(page: Path) -> Iterator[list[str]]:
    """The cells of every table row, heads and rules left out."""
    lines = prose(page).splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("| ") and not line.startswith("| ---") and before.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@cache
def names(path: Path) -> frozenset[str]:
    """Top-level names of a module, and `Class.member`."""
    found: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    collect(ast.parse(path.read_text()).body, "")
    return frozenset(found)


def module_file(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def missing_test(node_id: str) -> bool:
    path, _, name = node_id.partition("::")
    return not (ROOT / path).is_file() or name.replace("::", ".") not in names(ROOT / path)


def missing_check(check: str) -> bool:
    place, _, name = check.partition(":")
    if "/" in place:  # not Python: the name must stand in the file
        return not (ROOT / place).is_file() or not re.search(rf"\b{name}\b", (ROOT / place).read_text())
    path = module_file(place)
    return path is None or name not in names(path)


def node_ids(cell: str) -> list[str]:
    """The node ids in a cell; one that begins with "::" is in the file named before it."""
    found: list[str] = []
    for span in CODE.findall(cell):
        found.append(span if not span.startswith("::") else found[-1].partition("::")[0] + span)
    return found


def attacks() -> list[list[str]]:
    return [row for page in THREATS for row in rows(page) if "::" in row[-1]]


def test_every_attack_has_a_check_and_a_test() -> None:
    assert len(attacks()) > 80
    for row in attacks():
        attack, checks, tests = row
        assert attack and CODE.findall(checks) and node_ids(tests), row
        assert not re.sub(r"[`,\s]", "", CODE.sub("", checks + tests)), f"words beside the names: {row}"


def test_every_test_that_a_page_names_exists() -> None:
    named = [node_id for row in attacks() for node_id in node_ids(row[-1])]
    named += [span for page in PAGES for span in spans(page) if span.startswith("tests/") and "::" in span]
    assert [node_id for node_id in named if missing_test(node_id)] == []


def test_every_check_of_the_threat_model_exists() -> None:
    pattern = re.compile(rf"(({'|'.join(PACKAGES)})[\w./]*):([A-Za-z_][\w.]*)")
    checks = [check for row in attacks() for check in CODE.findall(row[1])]
    pages = (*THREATS, DOCS / "LIMITS.md")
    checks += [span for page in pages for span in spans(page) if pattern.fullmatch(span)]
    assert len(checks) > 100
    assert [check for check in checks if not pattern.fullmatch(check) or missing_check(check)] == []


@pytest.mark.parametrize("page", IDS)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, link


@pytest.mark.parametrize("page", IDS)
def test_every_file_and_module_that_a_page_names_exists(page: Path) -> None:
    for span in spans(page):
        if re.fullmatch(r"[\w./-]+/[\w.-]+\.(py|md|fc|mjs|yaml|hash|toml)", span):
            assert (ROOT / span).is_file(), span
        elif not (ROOT / span).is_file() and re.fullmatch(rf"({'|'.join(PACKAGES)})(\.[a-z_]\w*)+(\.[A-Z]\w*)?", span):
            module = span if module_file(span) else span.rpartition(".")[0]
            path = module_file(module)
            assert path, span
            assert module == span or span.rpartition(".")[2] in names(path), span


@cache
def sources() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def constants() -> frozenset[str | bytes]:
    nodes = (node for source in sources() for node in ast.walk(source) if isinstance(node, ast.Constant))
    return frozenset(node.value for node in nodes if isinstance(node.value, str | bytes))


def derived_labels() -> Iterator[bytes]:
    for source in sources():
        for node in ast.walk(source):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "derive":
                yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def test_every_domain_tag_stands_in_the_protocol_page_and_no_other() -> None:
    tags = {value for value in constants() if isinstance(value, bytes) and value.startswith(b"chrysalis/")}
    tags -= {b"chrysalis/1 "}  # what `derive` puts before its labels
    tags |= {b"chrysalis/1 " + label for label in derived_labels()}
    shown = {re.sub(r"(\\0|\\n)$", "", span) for span in spans(DOCS / "PROTOCOL.md") if span.startswith("chrysalis/")}
    assert shown == {tag.decode().rstrip("\0\n") for tag in tags}


def documented_codes() -> set[str]:
    section = prose(DOCS / "PROTOCOL.md").partition("## Error codes")[2].partition("\n## ")[0]
    cells = "\n".join(line for line in section.splitlines() if line.startswith(("|", "The control socket")))
    return {code for code in CODE.findall(cells) if re.fullmatch(r"[a-z][a-z0-9_]+", code)}


def test_every_documented_error_code_is_one_that_the_code_says() -> None:
    assert len(documented_codes()) > 60
    assert documented_codes() - constants() == set()


def test_every_error_code_of_gateway_relay_and_sidecar_is_documented() -> None:
    said = {refusal.code for _, refusal in refusals.REFUSALS} | set(refusals.HTTP_CODES.values())
    said |= {value.code for value in vars(relay_config).values() if isinstance(value, relay_config.Refusal)}
    said |= {refusal.code for refusal in relay_config.OWN_ERRORS}
    said |= {kind.code for kind in vars(client_errors).values() if hasattr(kind, "code")}
    assert said - documented_codes() == set()


@pytest.mark.parametrize("page", IDS)
def test_a_page_fits_in_one_reading(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 250
