"""Opening a file in the desktop's own viewer."""

import os
import shutil
import subprocess
import sys

from sightline.errors import InvalidInput


def open_in_viewer(location: str) -> None:
    """Start the viewer that the desktop has for the file or URL and return at once; raises `InvalidInput` where there is none."""
    if sys.platform == "win32":
        os.startfile(location)
        return
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    program = shutil.which(opener)
    if program is None:
        raise InvalidInput(f"cannot open {location}: there is no {opener} on this machine; write a picture with --sheet out.png instead")
    # In the background and in a session of its own: some openers end only with the viewer, and Ctrl-C in the shell shall not close it.
    in_background = '"$0" "$1" </dev/null >/dev/null 2>&1 &'
    subprocess.run(["sh", "-c", in_background, program, location], check=True, start_new_session=True)
