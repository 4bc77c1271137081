"""No code from files, no shell, no program run by a decoder, no way out of a folder."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest
from reliability_support import encoded, run, told
from runner_support import draw_crops

from blurface.assets import ASSETS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("blurface", "verification", "protocols")

pytestmark = pytest.mark.usefixtures("toys")


@functools.cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in the packages: file, dotted name, node."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
                    found.append((str(path.relative_to(ROOT)), dotted(node.func), node))
    return found


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name; of anything else its last attribute."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), "")


def test_files_are_read_without_executing_them() -> None:
    seen = {"torch.load": 0, "np.load": 0, "Image.open": 0}
    # Pictures that the code itself has encoded a line before, in memory.
    ours = {"blurface/training/pairs.py", "protocols/degradation.py", "protocols/commands/demo.py"}
    for file, name, call in calls():
        if name == "torch.load":
            assert keyword(call, "weights_only") == "True", file
        elif name in ("np.load", "numpy.load"):
            assert keyword(call, "allow_pickle") == "False", file
        elif name == "Image.open":
            assert file in ours or keyword(call, "formats"), file
        else:
            continue
        seen[name] += 1
    assert all(seen.values()), seen  # the test sees what it is about


def test_nothing_is_evaluated_or_handed_to_a_shell() -> None:
    forbidden = re.compile(
        r"(eval|exec|compile|os\.system|os\.popen|os\.exec\w+|os\.spawn\w+|pickle\.loads?|marshal\.loads?|"
        r"yaml\.load|joblib\.load|torch\.jit\.load|\w*\.extractall|\w*\.unpack_archive|tempfile\.mktemp|"
        r"subprocess\.\w+)"
    )
    # Archives are unpacked in one place, which checks every member (test_unsafe_members_stop_...).
    # One process is started: Python itself on the package's own file, which shields this one from
    # SciPy's reader of MATLAB files; multiprocessing would run a caller's unguarded script again.
    allowed = {
        ("blurface/assets/archives.py", "file.extractall"),
        ("blurface/kernels/matlab.py", "subprocess.run"),
    }
    assert {(file, name) for file, name, _ in calls() if forbidden.fullmatch(name)} == allowed
    assert not any(keyword(call, "shell") for _, _, call in calls())
    (started,) = (call for _, name, call in calls() if name.startswith("subprocess."))
    (command,) = started.args
    assert isinstance(command, ast.List)  # words, never a line to be split
    assert [ast.unparse(word) for word in command.elts[:3]] == ["sys.executable", "'-P'", "__file__"]


def test_downloads_are_checked_and_encrypted() -> None:
    files = [file for asset in ASSETS.values() for file in asset.files]
    assert files
    for file in files:
        assert file.url.startswith("https://")
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.sha256 or file.checksum_source  # where there is none, its absence is explained


@pytest.mark.parametrize(
    "name", ["../outside", "/etc", "..", ".", "a/b", "a\\b", "C:evil", "\x1b[31m", "a\tb"]
)
def test_a_name_in_a_pair_list_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    root = draw_crops(tmp_path / "crops", people=2, pictures=2)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "outside_0001.png").write_bytes(encoded("PNG"))
    for text in (
        f"1\t1\n{name}\t1\t2\nPerson_0\t1\tPerson_1\t1\n",
        f"1\t1\nPerson_0\t1\t{name}\nPerson_0\t1\tPerson_1\t1\n",
    ):
        (root / "pairs.txt").write_text(text)
        result = run(
            *("verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails"),
            *("--restorer", "none", "--kernels", "linear:5,0"),
        )
        assert result.exit_code == 1
        (line,) = told(result)
        assert "line 2" in line
        assert "\x1b" not in line


def test_a_hostile_folder_name_reaches_page_and_tables_as_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)<"  # a name of a folder, and so of the protocol
    root = draw_crops(tmp_path / hostile, people=4, pictures=2)
    out = tmp_path / "out"
    result = run(
        *("verify", "--pairs", f"folder-aligned:{root}", "--verifier", "thumbnails", "--jobs", 1),
        *("--restorer", "none", "--kernels", "linear:5,0", "--out", out, "--quiet"),
    )
    assert result.exit_code == 0, result.output
    assert run("report", out, "--quiet", "--no-images").exit_code == 0
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page


def test_dependencies_are_bounded_below_where_holes_were_closed() -> None:
    """The floors that docs/reliability.md gives reasons for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    listed = [*project["dependencies"], *(text for extra in extras for text in extra)]
    floors = {}
    for text in listed:
        match = re.match(r"([\w-]+)(?:\[[\w,]+\])?(?:[>=]=([\d.]+))?", text)
        assert match
        floors[match[1]] = tuple(int(part) for part in (match[2] or "0").split("."))
    needed = {"torch": (2, 13), "pillow": (12, 3), "pyarrow": (26,), "requests": (2, 33)}
    needed |= {"urllib3": (2, 8), "filelock": (4, 2, 1), "onnx": (1, 22), "scikit-learn": (1, 5)}
    needed |= {"ray": (2, 56), "click": (8, 3, 3), "pytest": (9, 0, 3)}
    for name, least in needed.items():
        assert floors[name] >= least, name
