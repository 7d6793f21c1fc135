"""The demonstration: its table, its pictures, its errors."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

import amlib
from amlib import __main__ as demo

ROOT = Path(amlib.__file__).parents[1]

SMALL = ["--memories", "60", "--queries", "12"]


def rows(text):
    """The table: model -> columns, without the seconds."""
    found = re.findall(
        r"^(\w+) +([\d.]+) %, ([\d,]+) of 2,304 +(\d+)/(\d+) +(.*) +[\d.]+$", text, re.M
    )
    return [
        (m, float(p), int(flips), int(hits), int(Q), *rest.split())
        for m, p, flips, hits, Q, rest in found
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small demonstration, run once: where it wrote."""
    return tmp_path_factory.mktemp("demo") / "new" / "folder"


def test_table_and_pictures(small, capsys):
    assert demo.main([*SMALL, "--out", str(small)]) == 0
    text = capsys.readouterr().out
    assert "60 icons of 48 x 48 bits stored, 12 of them corrupted and recalled (seed 0)" in text
    low, high, classical = rows(text)
    assert low[:7] == ("exponential", 25.0, 576, 12, 12, "0.500", "1.0000")
    assert high[:5] == ("exponential", 40.0, 922, 12, 12)
    assert classical[:3] == ("classical", 25.0, 576)
    assert classical[3] < 12
    for row in (low, high, classical):
        sweeps, before, after = map(float, row[7:])
        assert 1 <= sweeps <= demo.MAX_SWEEPS
        assert after < before
    assert "The classical network on the same data: 0 of 12 exact" in text
    assert "CC BY 3.0" in text
    assert {f.name for f in small.iterdir()} == {
        "recall-25.png", "recall-40.png", "energies.png", "film.png",
    }  # fmt: skip
    with Image.open(small / "film.png") as film:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) > 50
    assert (frames[-1] != frames[0]).mean() > 0.05
    assert (small / "film.png").stat().st_size < 700_000


def test_same_seed_same_table(small, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_draw", lambda *_: None)
    tables = []
    for seed in ("3", "3", "4"):
        demo.main([*SMALL, "--noise", "0.4", "--seed", seed, "--out", str(small)])
        tables.append(rows(capsys.readouterr().out))
    assert tables[0] == tables[1] != tables[2]


def test_classical_fails_and_says_so(small, capsys):
    argv = ["--model", "classical", *SMALL, "--noise", "0.25", "--out", str(small)]
    assert demo.main(argv) == 0
    text = capsys.readouterr().out
    (row,) = rows(text)
    assert row[3] == 0
    assert text.count("The classical network on the same data: 0 of 12 exact") == 1


def test_views(small, capsys):
    argv = ["--views", "--memories", "300", "--queries", "5", "--noise", "0.25"]
    assert demo.main([*argv, "--out", str(small)]) == 0
    text = capsys.readouterr().out
    assert "300 views of icons of 32 x 32 bits stored, 5 of them" in text
    assert re.search(r"^exponential +25 %, 256 of 1,024 +5/5 ", text, re.M)
    assert "CC BY 3.0" in text


def test_own_pictures_and_film(small, tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    random = np.random.default_rng(0)
    for k in range(3):
        blocks = np.kron(random.integers(0, 2, (6, 6)), np.ones((8, 8)))
        Image.fromarray((255 * blocks).astype(np.uint8)).save(tmp_path / f"blocks-{k}.png")
    argv = ["--images", str(tmp_path), "--model", "classical", "--mp4", "--out", str(small)]
    assert demo.main([*argv, "--noise", "0.1", "--noise", "0.2", "0.1"]) == 0
    text = capsys.readouterr().out
    assert "3 pictures of 48 x 48 bits stored, 3 of them" in text
    assert "CC BY 3.0" not in text
    assert [row[:5] for row in rows(text)] == [
        ("classical", 10.0, 230, 3, 3),
        ("classical", 20.0, 461, 3, 3),
    ]
    assert (small / "film.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "foo"], r"--model: invalid choice: 'foo' \(choose from .*exponential"),
        (["--noise", "2"], r"--noise: must be at most 0\.5; 2 came \(25 % is 0\.25\)"),
        (["--noise", "-0.1"], r"--noise: must be at least 0; -0\.1 came"),
        (["--noise", "nan"], "--noise: must be at least 0; nan came"),
        (["--noise", "much"], "--noise: invalid number value: 'much'"),
        (["--memories", "0"], "--memories: must be at least 1; 0 came"),
        (["--memories", "1.5"], r"--memories: invalid whole number value: '1\.5'"),
        (["--memories", "4135"], "--memories: must be at most 4,134; 4,135 came"),
        (["--views", "--model", "classical"], "--views: goes with --model exponential; classical"),
        (
            ["--views", "--memories", "2000000"],
            r"count must be at most 1,[\d,]+, .*; 2,000,000 came",
        ),
        (["--queries", "0"], "--queries: must be at least 1; 0 came"),
        (
            ["--memories", "5", "--queries", "6"],
            "--queries: must be at most the memories, 5; 6 came",
        ),
        (["--seed", "-1"], "--seed: must be at least 0; -1 came"),
        (["--images", "missing"], "missing must be a folder of PNG files"),
        (["--images", "empty"], "empty must hold at least one .png file"),
        (["--images", "broken"], r"broken.*no\.png must be a readable PNG"),
        (["--out", "broken/no.png"], r"--out: .*no\.png must be a folder to write to"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_bad_options_get_one_line_and_exit_code_2(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "no.png").write_bytes(b"not a picture")
    with pytest.raises(SystemExit) as stop:
        demo.main(argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"python -m amlib: .*{message}.*\n", err)


def test_video_without_the_extra_is_a_bad_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(SystemExit) as stop:
        demo.main(["--mp4"])
    assert stop.value.code == 2
    assert re.fullmatch(r".*pip install 'amlib\[video\]'.*\n", capsys.readouterr().err)


# Python imports `sitecustomize` before anything else; this one presses Ctrl-C at a chosen import.
PRESS = """
import os, signal, sys

left = int(os.environ["IMPORTS_BEFORE_CTRL_C"])
begun = False

def watch(event, args):
    global begun, left
    if event != "import":
        return
    begun = begun or args[0] in ("jax", "equinox")  # with the first that takes long
    if begun and left >= 0:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(watch)
"""


@pytest.fixture
def sigint():
    """A SIGINT that children do not ignore, as they do where the tests run in the background."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def assert_stopped(process, out=""):
    rest, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.endswith("\nStopped.\n")
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    return out + rest


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to itself")
@pytest.mark.parametrize("imports", [0, 30, 300, 1000])
def test_ctrl_c_while_importing(imports, tmp_path, sigint):
    (tmp_path / "sitecustomize.py").write_text(PRESS)
    env = {"IMPORTS_BEFORE_CTRL_C": str(imports), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "amlib", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    assert assert_stopped(subprocess.Popen(command, env=os.environ | env, **pipes)) == ""


@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_ctrl_c_while_running(delay, tmp_path, sigint):
    command = [sys.executable, "-u", "-m", "amlib", "--out", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout is not None
        assert "icons of 48 x 48 bits stored" in process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert_stopped(process)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
def test_ctrl_c_elsewhere_stays_what_it_was(sigint):
    """A program that imports amlib, also as `python -m`, gets its KeyboardInterrupt."""
    code = "import amlib, signal; print(signal.getsignal(2) is signal.default_int_handler)"
    command = [sys.executable, "-m", "timeit", "-n1", "-r1", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True")


def test_module_runs():
    command = [sys.executable, "-m", "amlib", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--memories" in done.stdout
    assert done.stderr == ""
