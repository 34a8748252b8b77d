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
    subprocess.Popen(
        [program, location],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the shell shall not close the picture
    )
