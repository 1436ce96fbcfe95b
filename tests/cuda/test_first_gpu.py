"""What is to run first on a GPU runs on the CPU in miniature; the report shows its numbers with the card's name."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from lib.course import report

spec = importlib.util.spec_from_file_location("first_gpu", Path(__file__).parents[2] / "benchmarks" / "first_gpu.py")
first_gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(first_gpu)


def test_a_rehearsal_measures_everything_and_the_report_shows_it(tmp_path, monkeypatch) -> None:
    found = json.loads(first_gpu.main(["--rehearse", "--out", str(tmp_path / "a.json")]).read_text())
    assert set(found["steps"]) == set(first_gpu.FULL) == set(first_gpu.SYSTEMS)
    assert all(row["milliseconds"]["cpu"] > 0 for row in found["kernels"]) and len(found["kernels"]) == 7
    (tmp_path / "b.json").write_text(json.dumps(found | {"card": "NVIDIA <T4>"}))
    monkeypatch.setattr(report, "GPUS", tmp_path)
    page = report._gpu_tables()
    assert "<h2>On rehearsal</h2>" in page and "<h2>On NVIDIA &lt;T4&gt;</h2>" in page
    assert "soft silhouette and back, 2 × 16², 20 faces" in page and "a step of chapter 9, 4 × 64²" in page
    monkeypatch.setattr(report, "GPUS", tmp_path / "none")
    assert report._gpu_tables() == ""


def test_without_a_gpu_it_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(first_gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        first_gpu.main([])
    assert "PyTorch finds no GPU here; run it on a machine that has one, or with --rehearse" in capsys.readouterr().err
