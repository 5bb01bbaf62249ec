"""Build the wheel, look into it, install it into a clean environment, and use it there.

    python tests/check_wheel.py          (`make wheel`)

The clean environment sees the dependencies of the running one (torch alone is gigabytes) through a .pth
file, behind its own site-packages; the package itself comes from the wheel, which is checked.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

PROBE = """
import importlib.metadata, json, onevision_hf, transformers
config = transformers.AutoConfig.for_model("onevision_encoder")
print(json.dumps({
    "file": onevision_hf.__file__,
    "version": importlib.metadata.version("onevision-hf"),
    "clip": onevision_hf.bundled_clip().is_file(),
    "config": type(config).__module__,
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that has to succeed, without this checkout on its path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} ended with {result.returncode}\n{result.stdout}{result.stderr}"
        )
    return result.stdout


def build_wheel(folder: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """The wheel holds `onevision_hf` and its metadata, with every source file, asset and the type marker."""
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names}
    strangers = {root for root in roots if root != "onevision_hf" and not root.endswith(".dist-info")}
    assert not strangers, f"the wheel also holds {sorted(strangers)}"
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "onevision_hf").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    missing = expected - set(names)
    assert not missing, f"the wheel lacks {sorted(missing)}"
    assert "onevision_hf/py.typed" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names), "the wheel lacks the LICENSE"
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1000:.0f} kB")


def install(wheel: Path, folder: Path) -> Path:
    """A new environment with the wheel, and the dependencies of the running one. Returns its bin folder."""
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    site = Path(
        run(scripts / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        scripts / "python",
        "install",
        "--no-deps",
        "--no-index",
        "-q",
    ]
    run(*pip, wheel, cwd=folder)
    # A path in a .pth file comes after the environment's own packages, and .pth files in it are not read:
    # the editable install of the running environment stays out.
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in here))
    return scripts


def check_use(scripts: Path, folder: Path) -> None:
    """Import it and run the command, from a folder that is not the checkout."""
    found = json.loads(run(scripts / "python", "-c", PROBE, cwd=folder))
    assert not Path(found["file"]).is_relative_to(ROOT), f"imported from the checkout: {found['file']}"
    assert Path(found["file"]).is_relative_to(scripts.parent), f"imported from {found['file']}"
    assert found["clip"] and found["config"].startswith("onevision_hf.")
    report = json.loads(
        run(scripts / "onevision", "encode", "bundled", "--num-frames", "8", "--json", cwd=folder)
    )
    (clip,) = report["clips"]
    assert clip["frames_sampled"] == 8 and clip["outputs"]["last_hidden_state"][1] == clip["patches_kept"]
    print(f"onevision-hf {found['version']} encodes {clip['patches_kept']} patches in a clean environment")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wheel = build_wheel(folder)
        check_contents(wheel)
        check_use(install(wheel, folder / "environment"), folder)


if __name__ == "__main__":
    main()
