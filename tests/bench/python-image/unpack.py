"""Writes the files of wheels to stdout as one tar, and their number of bytes to a file: unpack.py BYTES WHEEL…"""

import sys
import tarfile
import zipfile

total = 0
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    for wheel in sys.argv[2:]:
        with zipfile.ZipFile(wheel) as members:
            for member in members.infolist():
                entry = tarfile.TarInfo(member.filename)
                entry.size = member.file_size
                total += member.file_size
                with members.open(member) as content:
                    archive.addfile(entry, content)
with open(sys.argv[1], "w") as file:
    file.write(str(total))
