import json
from pathlib import Path

from service.http.request_log import BACKUPS, RequestLog


def test_every_request_is_one_line_of_json(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "new" / "log.jsonl", 1)
    log.write(n=1, class_label=None)
    log.write(n=2, class_label=3)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "new" / "log.jsonl").read_text().splitlines()]
    assert [line["n"] for line in lines] == [1, 2]
    assert lines[0]["time"] <= lines[1]["time"]


def test_a_large_log_is_rotated_and_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.jsonl", 1)
    for _ in range(6):
        log.write(text="x" * 900_000)
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log.jsonl", *(f"log.jsonl.{i}" for i in range(1, BACKUPS + 1))]
    assert all(json.loads(path.read_text()) for path in tmp_path.iterdir())
