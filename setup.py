"""Keeps links to directories links in the sdist; all else about the package is in pyproject.toml."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

FOLDERS = [Path("curb"), Path("deploy/helm/curb/files")]
# The image is built from what it needs, which is not the chart: glob finds nothing in a folder that is not there.
LINKS = [path for folder in FOLDERS for path in folder.glob("*") if path.is_symlink() and path.is_dir()]


class SdistWithLinks(sdist):
    """setuptools copies what a link to a directory holds, which would be in the archive twice then."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for link in LINKS:
            shutil.rmtree(Path(base_dir) / link, ignore_errors=True)
            (Path(base_dir) / link).symlink_to(os.readlink(link))


setup(cmdclass={"sdist": SdistWithLinks})
