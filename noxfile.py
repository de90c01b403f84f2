"""The checks of this project. ``nox`` runs the default checks, ``nox -s NAME`` runs one, and ``nox -l`` lists all."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
import sys
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "typing", "layers", "tests"]

PYTHONS = sorted({"3.11", "3.12", "3.13", "3.14", f"{sys.version_info[0]}.{sys.version_info[1]}"})
PROJECT = nox.project.load_toml("pyproject.toml")
ROOT = Path(__file__).parent
PACKAGE = "qwen_edit_async"
SOAK = ROOT / "benchmarks" / "soak.py"

PURITY = next(each for each in PROJECT["tool"]["importlinter"]["contracts"] if each["name"].startswith("The pure core"))
MOSTLY_PURE = (
    "qwen_edit_async/batch/outcome",
    "qwen_edit_async/display/[cg]*",
    "qwen_edit_async/http/[hos]*",
    "qwen_edit_async/images/*",
)
"""Globs of modules outside the pure core that make many decisions and do little I/O."""

FULLY_TESTED = (
    *(module.replace(".", "/") + ending for module in PURITY["source_modules"] for ending in ("", "/*")),
    *MOSTLY_PURE,
)
"""Globs of the modules in which every branch must be tested."""

PHOTOS = {
    "astronaut.png": ("make it a pencil sketch", "warmer, like at sunset"),
    "chelsea.png": ("turn it into a night scene", "posterize it"),
    "coffee.png": ("make it sepia, with a frame", "turn day into night"),
    "rocket.jpg": ("make it snow", "invert the colors"),
    "retina.jpg": ("grayscale, with more contrast",),
    "hubble_deep_field.jpg": ("much brighter", "rotate it by 90 degrees"),
    "motorcycle_left.png": ("pixelate it", "make it look vintage"),
    "camera.png": ("mirror it and blur it", "paint the sky purple"),
    "no_time_for_that_tiny.gif": ("make it sharper",),
}
"""Photographs in the scikit-image wheel, and the demo's instructions for them."""

MAX_IMPORT_RATIO = 1.25
"""The maximum CPU time for importing the package, relative to ``import aiohttp``."""

ISOLATED = ("-I", "-W", "error", "-c")
"""Python's options to import the installed package instead of the checkout in the working directory."""

ON_ALL_CORES = ("--numprocesses", "logical", "--dist", "worksteal")
"""Options of pytest. ``worksteal`` keeps most tests of a module together, so that few processes start a browser."""

TIME_OF_IMPORT = "import time; begun = time.process_time(); import {}; print(time.process_time() - begun)"


def dependencies(*groups: str) -> list[str]:
    """Return the requirements of pyproject.toml's dependency groups."""
    return list(nox.project.dependency_groups(PROJECT, *groups))


wheels_built: list[Path] = []
"""The path of the wheel, once it is built. All sessions of a nox run check the same wheel."""


def install_wheel(session: nox.Session, extras: str, *groups: str) -> None:
    """Install the wheel with extras and dependency groups. Build it first if no session has built it yet."""
    if not wheels_built:
        folder = session.create_tmp()
        session.install("build")
        session.run("python", "-m", "build", "--wheel", "--outdir", folder, str(ROOT), silent=True)
        wheels_built.append(max(Path(folder).resolve().glob("*.whl"), key=lambda path: path.stat().st_mtime))
    # Unlike pip, uv compiles modules only on request. Without the request, each process that a test starts could
    # compile the modules again.
    session.install(
        "--force-reinstall",
        f"{wheels_built[0]}[{extras}]",
        *(dependencies(*groups) if groups else ()),
        env={"UV_COMPILE_BYTECODE": "1"},
    )


def spread(session: nox.Session) -> tuple[str, ...]:
    """Return pytest's options to use all cores; none if nox has arguments, which may start a debugger."""
    return () if session.posargs else ON_ALL_CORES


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite on the built wheel, and check the coverage."""
    install_wheel(session, "all", "test")
    config = ("--rcfile", "../pyproject.toml")
    # From this folder, the tests import the installed package, not the checkout.
    with session.chdir("tests"):
        session.run("coverage", "erase", *config)
        pytest = ("-m", "pytest", "-c", "../pyproject.toml", *spread(session), ".", *session.posargs)
        session.run("coverage", "run", *config, *pytest)
        if not session.posargs:
            session.run("coverage", "combine", *config, "--quiet")
            report = ("coverage", "report", *config, "--skip-covered", "--show-missing")
            session.run(*report, "--fail-under", "95")
            included = ",".join(f"*/{glob}.py" for glob in FULLY_TESTED)
            session.run(*report, "--include", included, "--fail-under", "100")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz each kind of external input with 10,000 examples. The session ``tests`` tries 100.

    ``nox -s fuzz -- -k journal`` tries one kind. ``QWEN_EDIT_FUZZ_EXAMPLES=500 nox -s fuzz`` tries fewer examples.
    """
    install_wheel(session, "all", "test")
    with session.chdir("tests"):
        options = ("-m", "fuzz", "--hypothesis-profile", "fuzz", "--timeout", "7200", "--durations", "0")
        session.run("pytest", "-c", "../pyproject.toml", *options, *spread(session), ".", *session.posargs)


@nox.session
def ray(session: nox.Session) -> None:
    """Test Ray Data and Daft on a cluster on this machine. Some tests kill the cluster's processes."""
    install_wheel(session, "all,ray", "test", "clusters")
    with session.chdir("tests"):
        session.run("pytest", "-c", "../pyproject.toml", "clusters", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff. pyproject.toml gives a reason for each disabled rule."""
    session.install(*dependencies("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package, of its public surface, of the README's examples and of the synchronous API."""
    install_wheel(session, "all", "typing")
    session.run("mypy")
    session.run("basedpyright", "--ignoreexternal", "--verifytypes", "qwen_edit_async")
    examples = write_examples(Path(session.create_tmp()))
    session.run("mypy", "--strict", "tests/typed_use.py", "tests/typed_star.py", *examples)


def write_examples(folder: Path) -> list[str]:
    """Write each Python example of the README as a module with the README's line numbers.

    An example that defines no tests becomes the body of a coroutine.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    paths = []
    for example in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        fence, code = text.count("\n", 0, example.start()), example[1]
        if re.search(r"^def test_|^async def test_", code, re.MULTILINE):
            source = f"\n{code}"
        else:
            source = f"async def example() -> None:\n{textwrap.indent(code, '    ')}"
        path = folder / f"readme_{fence + 1}.py"
        path.write_text("\n" * fence + source, encoding="utf-8")
        paths.append(str(path))
    return paths


@nox.session
def layers(session: nox.Session) -> None:
    """Check that modules import only from lower layers. pyproject.toml lists the layers."""
    session.install("-e", ".[all]", *dependencies("layers"))
    session.run("lint-imports")


@nox.session
def demo(session: nox.Session) -> None:
    """Edit real photographs with the emulator. This needs no key."""
    install_wheel(session, "cli,fast", "demo")
    found = session.run("python", "-c", "import skimage, os; print(os.path.dirname(skimage.__file__))", silent=True)
    photos = Path(str(found).strip()) / "data"
    output = ROOT / "demo-output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    table = output / "edits.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "image", "image2", "instruction"])
        for name, instructions in PHOTOS.items():
            for number, instruction in enumerate(instructions, 1):
                rows.writerow([f"{Path(name).stem}-{number}", photos / name, "", instruction])
        together = "put picture 1 into picture 2, and make it snow"
        rows.writerow(["two-images", photos / "astronaut.png", photos / "rocket.jpg", together])
    session.run("qwen-edit", "batch", str(table), "-o", str(output), "--emulator", "--concurrency", "8")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks, and write benchmarks/README.md. ``nox -s bench -- --quick`` only checks that they run."""
    install_wheel(session, "all", "bench")
    begun = time.monotonic()
    for module in sorted({*ROOT.glob("benchmarks/[a-z]*.py")} - {SOAK, SOAK.with_name("core.py")}):
        session.run("python", str(module), *results_folder(session), *session.posargs)
    if not session.posargs:
        session.run("python", str(SOAK.with_name("_page.py")), str(time.monotonic() - begun))


@nox.session
def soak(session: nox.Session) -> None:
    """Make 100,000 edits with faults of every kind. No edit may be lost or made twice, and memory must not grow.

    A bulk run of 100,000 rows follows, or of 200 with ``--quick``. Any other option skips the bulk run.
    """
    install_wheel(session, "all", "bench")
    session.run("python", str(SOAK), *results_folder(session), *session.posargs)
    if session.posargs in ([], ["--quick"]):
        journal = str(SOAK.with_name("journal.py"))
        rows = "200" if session.posargs else "100000"
        session.run("python", journal, "--long", rows, *results_folder(session), *session.posargs)


def results_folder(session: nox.Session) -> tuple[str, str]:
    """Return the option for the results folder. With ``--quick``, it is a temporary folder."""
    quick = "--quick" in session.posargs
    return "--output", session.create_tmp() if quick else str(ROOT / "benchmarks" / "results")


@nox.session(name="release-check")
def release_check(session: nox.Session) -> None:
    """Check a release: files, tests with the lowest and the newest dependencies, import time, and vulnerabilities."""
    dist = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.install("build", "pip-audit", "uv")
    session.run("python", "-m", "build", "--outdir", str(dist), str(ROOT), silent=True)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    check_content(session, sdist, wheel)
    for resolution in ("lowest-direct", "highest"):
        python = install_released(session, wheel, resolution)
        with session.chdir("tests"):
            pytest = (python, "-m", "pytest", "-c", "../pyproject.toml", *spread(session), ".", *session.posargs)
            session.run(*pytest, external=True)
    check_import(session, python)
    audit(session, python)


def check_content(session: nox.Session, sdist: Path, wheel: Path) -> None:
    """Check that the wheel holds exactly the package's tracked files, and the sdist only tracked files."""
    tracked = set(str(session.run("git", "-C", str(ROOT), "ls-files", silent=True, external=True)).splitlines())
    expected = {name for name in tracked if name.startswith(f"{PACKAGE}/")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    if names != expected:
        session.error(f"in the wheel but not tracked, or tracked but not in the wheel: {sorted(names ^ expected)}")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()} - {"PKG-INFO"}
    if junk := names - tracked:
        session.error(f"in the source distribution, but not under version control: {sorted(junk)}")
    session.log(f"{wheel.name}: {len(expected)} files; {sdist.name}: {len(names)} files")


def install_released(session: nox.Session, wheel: Path, resolution: str) -> str:
    """Install the wheel with the lowest or newest versions of its dependencies, and return the path of its Python."""
    environment = wheel.parent.parent / resolution
    session.run("uv", "venv", "--quiet", "--clear", "--python", str(Path(session.bin) / "python"), str(environment))
    python = str(environment / "bin" / "python")
    # uv does not count a wheel's requirements as direct, so resolve the requirements in pyproject.toml instead.
    versions = str(environment / "versions.txt")
    compile_versions = ("uv", "pip", "compile", "--quiet", "--python", python, "--resolution", resolution)
    session.run(
        *compile_versions, "--extra", "all", str(ROOT / "pyproject.toml"), "--output-file", versions, silent=True
    )
    install = ("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python)
    session.run(*install, "--constraints", versions, str(wheel))
    session.run(python, *ISOLATED, f"import {PACKAGE}", external=True)
    session.run(*install, "--constraints", versions, f"{wheel}[all]")
    session.run(*install, "--constraints", versions, *dependencies("test"))
    session.run("uv", "pip", "list", "--python", python)
    return python


def check_import(session: nox.Session, python: str) -> None:
    """Check the CPU time of importing the package, relative to aiohttp's."""
    ratios = []
    for _ in range(21):
        commands = [(python, *ISOLATED, TIME_OF_IMPORT.format(name)) for name in ("aiohttp", PACKAGE)]
        alone, ours = (float(str(session.run(*each, silent=True, external=True, log=False))) for each in commands)
        ratios.append(ours / alone)
    ratio = statistics.median(ratios)
    session.log(f"the import takes {ratio:.2f} x the CPU time of importing aiohttp")
    if ratio > MAX_IMPORT_RATIO:
        session.error(f"the import takes more than {MAX_IMPORT_RATIO} x the CPU time of importing aiohttp")


def audit(session: nox.Session, python: str) -> None:
    """Check the installed packages for known vulnerabilities, if the database of vulnerabilities can be reached."""
    frozen = Path(python).parent.parent / "requirements.txt"
    listed = str(session.run("uv", "pip", "freeze", "--python", python, silent=True))
    frozen.write_text("".join(f"{line}\n" for line in listed.splitlines() if "==" in line), encoding="utf-8")
    command = ("pip-audit", "--requirement", str(frozen), "--disable-pip", "--no-deps", "--format", "json")
    said = str(session.run(*command, silent=True, success_codes=[0, 1]))
    start = said.find('{"dependencies"')
    entries = json.JSONDecoder().raw_decode(said[start:])[0]["dependencies"] if start >= 0 else []
    found = [each for each in entries if "vulns" in each]
    if not found:
        session.warn(f"nothing was audited: {said.strip()[-200:]}")
        return
    weak = {each["name"]: [weakness["id"] for weakness in each["vulns"]] for each in found if each["vulns"]}
    session.log(f"{len(found)} of {len(entries)} dependencies audited, {len(weak)} with known vulnerabilities")
    if weak:
        session.error(f"known vulnerabilities: {weak}")
