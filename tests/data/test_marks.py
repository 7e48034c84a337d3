from pathlib import Path

import pytest

from interplant.core.errors import InterplantError
from interplant.data.marks import Marks
from interplant.data.patience import Patience


def test_marks_are_there_the_next_time(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "state" / "marks.json")
    marks.values["mark"] = 7
    assert not (tmp_path / "state").exists()
    marks.save()
    assert Marks(tmp_path / "state" / "marks.json").values == {"mark": 7}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "marks.json").write_bytes(content)
    with pytest.raises(InterplantError, match="remove the file, and the source is read from its beginning"):
        Marks(tmp_path / "marks.json")


def test_waits_double_up_to_the_longest_and_begin_again(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience("the broker", first=1.0, longest=5.0)
    assert [patience.failed("refused") for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert len(caplog.records) == 3
    patience.succeeded()
    assert patience.failed("refused") == 1.0
