from __future__ import annotations

from lib.course import machine


def test_another_lib_in_the_way_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert machine.other_libs() == []
    (tmp_path / "lib").mkdir()
    assert machine.other_libs() == [], "an empty folder, or one without Python, is in nobody's way"
    (tmp_path / "lib" / "tools.py").touch()
    assert machine.other_libs() == [tmp_path / "lib"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lib.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert machine.other_libs() == [tmp_path / "lib", tmp_path / "elsewhere" / "lib.py"]
