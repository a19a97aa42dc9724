"""Tables of metadata become one."""

import pytest

from pipeline.adoption.tables import merged
from pipeline.errors import FoundryError

OLD = b"file_name,label\n1.png,cat\n2.png,dog\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "wanted"),
    [
        ("metadata.csv", OLD, b"file_name,label\n3.png,cat\n", OLD + b"3.png,cat\n"),
        ("metadata.csv", OLD, b"label,file_name\ncat,1.png\ndog,3.png\n", OLD + b"3.png,dog\n"),
        ("metadata.csv", OLD[:-1], b'File_Name;Label\r\n3.png;"a, b"\r\n', OLD + b'3.png,"a, b"\n'),
        ("metadata.csv", b"\xef\xbb\xbffile_name;label\r\n1.png;cat\r\n", b"file_name,label\n3.png,dog\n",
         b"\xef\xbb\xbffile_name;label\r\n1.png;cat\r\n3.png;dog\r\n"),
        ("metadata.csv", OLD, OLD.replace(b",", b";"), OLD),
        ("metadata.jsonl", b'{"file_name": "1.png", "label": 1}', b'{"label": 1, "file_name": "1.png"}\n{"file_name": "2.png"}\n',
         b'{"file_name": "1.png", "label": 1}\n{"file_name": "2.png"}\n'),
        ("metadata.csv", b"", b"", b""),
    ],
    ids=["more", "some", "format", "spreadsheet", "none", "jsonl", "empty"],
)  # fmt: skip
def test_new_rows_follow_in_the_format_of_the_old_table(name: str, old: bytes, new: bytes, wanted: bytes) -> None:
    assert merged(name, old, new) == wanted


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (b"file_name,label\n2.png,cat\n", "metadata.csv: 2.png is label dog in the old table and label cat in the new one"),
        (b"file_name,text\n3.png,cat\n", "the new table has the columns file_name, text, wanted those of the old one, file_name, label"),
        (b"\xff\xfe", "not a readable table of images"),
    ],
)  # fmt: skip
def test_tables_that_contradict_each_other_are_refused(new: bytes, words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        merged("metadata.csv", OLD, new)
