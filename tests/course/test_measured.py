"""The records of measured results: those that are kept, and those of a new run."""

from __future__ import annotations

import json

import pytest

from lib.course import measured, notebooks
from lib.course.runs import Chapter, Run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "results")
    return tmp_path / "run"


def write_run(folder, value=8.5, status="passed", **about):
    folder.mkdir(exist_ok=True)
    chapter = Chapter("10_keypoints", status=status, seconds=120.0)
    run = Run(folder, "long", 1, "cpu", started="2026-11-27T10:00:00", hardware={"cores": 2}, chapters=[chapter])
    for name, one in about.items():
        setattr(run, name, one)
    run.save()
    (folder / chapter.name).mkdir(exist_ok=True)
    entry = {"low": None, "high": None, "unit": "°", "inside": None}
    numbers = {"median error: ours": entry | {"value": value}, "lost": entry | {"value": "nan"}}
    (folder / chapter.name / "metrics.json").write_text(json.dumps(numbers))


def test_what_is_in_the_repository_can_be_read():
    assert {figure.chapter for figure in measured.FIGURES} <= {path.stem for path in notebooks.all_chapters()}
    for path in measured.FOLDER.glob("*.json"):
        records = measured.read(path.stem)
        keys = [(record["profile"], record["seed"]) for record in records]
        assert keys == sorted(set(keys)), path.name
        figure = next(figure for figure in measured.FIGURES if figure.chapter == path.stem)
        assert all(figure.metric in record["metrics"] for record in records), path.name


def test_a_run_becomes_a_record_and_a_second_one_replaces_it(folder):
    figure = next(figure for figure in measured.FIGURES if figure.chapter == "10_keypoints")
    write_run(folder)
    (path,) = measured.keep(folder)
    (record,) = measured.read("10_keypoints")
    assert path.parent == measured.FOLDER and set(record) == set(measured.ENTRIES)
    assert record["metrics"] == {"median error: ours": 8.5} and record["steps"] == 1500
    assert (record["minutes"], record["cores"], record["date"]) == (2.0, 2, "2026-11-27")
    write_run(folder, 7.5)
    measured.keep(folder)
    write_run(folder, 9.0, seed=0)
    measured.keep(folder)
    assert measured.values(figure, "long") == [9.0, 7.5] and measured.values(figure, "quick") == []


def test_what_is_no_result_is_refused(folder):
    with pytest.raises(ValueError, match="holds no run"):
        measured.keep(folder)
    write_run(folder, overrides={"steps": 3})
    with pytest.raises(ValueError, match=r"other settings \(steps\)"):
        measured.keep(folder)
    write_run(folder, status="failed")
    with pytest.raises(ValueError, match=r"10_keypoints in .* is failed"):
        measured.keep(folder)
    assert not measured.FOLDER.exists()
    measured.FOLDER.mkdir()
    (measured.FOLDER / "10_keypoints.json").write_text('[{"profile": "long"}]')
    with pytest.raises(ValueError, match="holds no records"):
        measured.read("10_keypoints")
