"""Every check of this project: ``nox`` runs them all, ``nox -s NAME`` one of them, ``nox -l`` lists them."""

from __future__ import annotations

import csv
import shutil
import sys
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

PURE_CORE = ",".join(
    f"*/qwen_edit_async/{name}.py"
    for name in (
        "_batch/_plan",
        "_batch/_report",
        "_budget",
        "_config",
        "_contract",
        "_display",
        "_errors",
        "_gallery",
        "_gallery_page",
        "_images",
        "_learned",
        "_markup",
        "_models",
        "_pacing",
        "_png",
        "_polling",
        "_progress",
        "_replies",
        "_requests",
        "_retry",
        "_schedule",
        "_statistics",
        "_survival",
        "_wire",
    )
)
"""Modules without I/O, clock or randomness of their own: every branch of them is tested."""

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
"""Photographs that the scikit-image wheel carries, and what the demo does with them."""


def dependencies(*groups: str) -> list[str]:
    """What pyproject.toml's dependency groups ask for."""
    return list(nox.project.dependency_groups(PROJECT, *groups))


def install_wheel(session: nox.Session, extras: str) -> None:
    """Build the wheel, and install it with some extras: what is checked is what users get."""
    folder = session.create_tmp()
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", folder, str(ROOT), silent=True)
    wheel = max(Path(folder).glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.install("--force-reinstall", f"{wheel}[{extras}]")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite on the built wheel, and hold the coverage."""
    install_wheel(session, "all")
    session.install(*dependencies("test"))
    config = ("--rcfile", "../pyproject.toml")
    # Run from the tests' folder, so that the installed package is imported and not the checkout.
    with session.chdir("tests"):
        session.run("coverage", "erase", *config)
        session.run("coverage", "run", *config, "-m", "pytest", "-c", "../pyproject.toml", ".", *session.posargs)
        if not session.posargs:
            session.run("coverage", "combine", *config, "--quiet")
            report = ("coverage", "report", *config, "--skip-covered", "--show-missing")
            session.run(*report, "--fail-under", "95")
            session.run(*report, "--include", PURE_CORE, "--fail-under", "100")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff; pyproject.toml has a reason for each rule that is off."""
    session.install(*dependencies("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types inside (mypy --strict), and that the public surface is wholly typed (pyright --verifytypes)."""
    install_wheel(session, "all")
    session.install(*dependencies("typing"))
    session.run("mypy")
    session.run("basedpyright", "--ignoreexternal", "--verifytypes", "qwen_edit_async")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports point down only; pyproject.toml draws the layers."""
    session.install("-e", ".[all]", *dependencies("layers"))
    session.run("lint-imports")


@nox.session
def demo(session: nox.Session) -> None:
    """Edit real photographs with the embedded emulator; no key is needed."""
    install_wheel(session, "cli,fast")
    session.install(*dependencies("demo"))
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
    """Measure; benchmarks/README.md says what and how. ``nox -s bench -- --quick`` only shows that it runs."""
    install_wheel(session, "all")
    session.install(*dependencies("bench"))
    for module in sorted(ROOT.glob("benchmarks/[a-z]*.py")):
        session.run("python", str(module), "--output", str(ROOT / "benchmarks" / "results"), *session.posargs)
